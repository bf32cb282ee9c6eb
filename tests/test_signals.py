"""Signals at any moment of a command, and commands at once on one folder: nothing is left behind, and nothing is lost.

Six moments in the ordinary suite; ``ROI_PROGRESSIVE_NIGHTLY=1`` has a hundred and more.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roi_progressive.config import Config, GGDConfig
from roi_progressive.data.phantom import make_phantom
from roi_progressive.runs.train import TrainOptions, train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are forked, which this system cannot")
NIGHTLY = os.environ.get("ROI_PROGRESSIVE_NIGHTLY") == "1"
SCRIPT = Path(__file__).with_name("signalled.py")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

TINY = [
    *("--channels", "2", "--depth", "2", "--discriminator-channels", "2", "--discriminator-layers", "1"),
    *("--no-regions", "--threads", "1"),
]
EPOCHS = ["--epochs", "2", "--decay-epochs", "1", "--save-every-epochs", "1"]
TRAIN = ["train", "--data", "PLACE/data", "--out", "PLACE/new", *TINY, *EPOCHS]
RESUME = ["train", "--out", "PLACE/run", "--resume", "--threads", "1"]
EVALUATE = ["evaluate", "PLACE/run"]
FIGURE = ["figure", "PLACE/run", "--sigma"]
FOLDERS = [
    *("evaluate", "--real", "PLACE/data/testB", "--fake", "PLACE/data/testB", "--masks", "PLACE/data/testA_tumor"),
    *("--manifest", "PLACE/data/manifest.json", "--out", "PLACE/scores"),
]
PREPARE = ["prepare", "PLACE/scans/list.csv", "PLACE/prepared", "--size", "32"]
DEMO = ["demo", "--out", "PLACE/demo", "--epochs", "4", "--processes", "1"]
CHECK = ["check", "--host", "PLACE/host", "--data", "PLACE/data", "--config", "PLACE/roi.toml"]
N_CALLS = {"train": 200, "resume": 135, "evaluate": 125, "figure": 130, "folders": 27, "prepare": 420}
N_CALLS |= {"demo": 1500, "check": 2}  # of the demo, its phantom alone; the check makes a folder, and removes it
"""About as many calls of each command, as it is below, change a file."""
LASTS_S = {name: 2.0 for name in N_CALLS} | {"demo": 20.0}
COMMANDS = {
    "train": TRAIN,
    "resume": RESUME,
    "evaluate": EVALUATE,
    "figure": FIGURE,
    "folders": FOLDERS,
    "prepare": PREPARE,
    "demo": DEMO,
    "check": CHECK,
}
AGAIN = {"train": [[*TRAIN, "--force"]], "folders": [[*FOLDERS, "--force"]]}
AGAIN["demo"] = []  # which takes minutes; that it starts with --force is a test of its own
CHECKOUT = {
    "host/options/__init__.py": "",
    "host/options/train_options.py": """
import argparse
class TrainOptions:
    def parse(self):
        parser = argparse.ArgumentParser()
        for name in ("--dataroot", "--checkpoints_dir", "--name", "--gpu_ids"):
            parser.add_argument(name, default="")
        parser.add_argument("--num_threads", type=int, default=0)
        return parser.parse_args()
""",
    "host/models/base_model.py": "",
    "host/models/__init__.py": """
from roi_progressive.host import HostOptions, create_model as bundled
TINY = {"ngf": 4, "ndf": 4, "unet_depth": 2, "n_layers_D": 2, "n_blocks": 1, "n_epochs": 2, "n_epochs_decay": 0}
def create_model(opt):
    own = HostOptions(dataroot=opt.dataroot, checkpoints_dir=opt.checkpoints_dir, **TINY)
    model = bundled(own)
    whole, model.setup = model.setup, lambda opt: whole(own)
    return model
""",
    "host/data/__init__.py": """
from roi_progressive.host import HostOptions, create_dataset as bundled
def create_dataset(opt):
    return bundled(HostOptions(dataroot=opt.dataroot, checkpoints_dir=opt.checkpoints_dir))
""",
}
"""The bundled host, as a checkout that `check` looks at."""
ROI = """
[[regions]]
name = "tumor"
scales = 1
base_channels = 2
"""
MINE = ("run/notes.txt", "run/networks/my_pretrained.pth", "run/test/A2B/notes.txt", "run/samples/mine.png")
IN_PASSING = re.compile(r"\.tmp$|\.partial|\.old$|\.lock$")


def moments() -> list[tuple[str, str, dict[str, float]]]:
    """A command, a signal, and when it comes: at a call that changes a file, or after some seconds."""
    stream = random.Random(0)
    found = []
    for name in COMMANDS:
        for _ in range(18 if NIGHTLY else 1):
            at_call = stream.random() < 0.7 or not NIGHTLY
            at = (
                {"call": stream.randint(1, N_CALLS[name])} if at_call else {"after_s": stream.uniform(0, LASTS_S[name])}
            )
            found.append((name, SIGNALS[len(found) % 3], at))
    return found


AT_ONCE = [[TRAIN, TRAIN], [EVALUATE, FIGURE, RESUME, RESUME], [PREPARE, PREPARE], [EVALUATE, EVALUATE]]
AT_ONCE += [
    *([RESUME, RESUME, EVALUATE], [EVALUATE, FIGURE, EVALUATE, RESUME], [PREPARE, PREPARE, PREPARE, PREPARE]),
    *([TRAIN, TRAIN, TRAIN], [TRAIN, EVALUATE, FIGURE], [RESUME, EVALUATE, FIGURE, FIGURE], [EVALUATE] * 4),
    *([FOLDERS, FOLDERS, FOLDERS], [PREPARE, PREPARE], [EVALUATE, EVALUATE], [TRAIN, PREPARE, EVALUATE, FOLDERS]),
] * (3 if NIGHTLY else 0)


@pytest.fixture(scope="module")
def start(
    small_networks: dict[str, Any],
    write_scans: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A data set, scans, and a run stopped in its second epoch, with files of the user's in it."""
    folder = tmp_path_factory.mktemp("signals") / "start"
    make_phantom(folder / "data", n_train=4, n_val=1, n_test=3, slices_per_patient=1, size_px=32)
    write_scans(folder / "scans").rename(folder / "scans" / "list.csv")

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("epoch 2"):
            raise KeyboardInterrupt

    options = TrainOptions(**small_networks, epochs=2, decay_epochs=1, save_every_epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(
            folder / "data", folder / "run", options, Config(regions=(), ggd=GGDConfig(hidden_channels=2)), report=stop
        )
    for name, text in {**CHECKOUT, "roi.toml": ROI}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name in MINE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(start: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("signalled") / "cases.json"
    cases: list[dict[str, Any]] = [
        {"commands": [COMMANDS[name]], "signal": number, **at, "again": AGAIN.get(name, [COMMANDS[name]])}
        for name, number, at in moments()
    ]
    cases += [{"commands": commands, "again": [RESUME, FIGURE]} for commands in AT_ONCE]
    path.write_text(json.dumps({"start": str(start), "cases": cases}), encoding="utf-8")
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    environment = {**os.environ, **one_thread, "CUDA_VISIBLE_DEVICES": "", "TORCH_HOME": str(path.parent)}
    run = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", str(SCRIPT), str(path)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for number in range(len(cases)):
        for name in MINE:
            assert (path.with_name(f"case{number}") / name).read_text(encoding="utf-8") == "mine", (
                f"{name} of {cases[number]}"
            )
    result: list[dict[str, Any]] = json.loads(path.with_suffix(".out").read_text(encoding="utf-8"))
    return result


def test_the_signals_did_end_commands(found: list[dict[str, Any]]) -> None:
    """Else the tests below would pass whatever a signal leaves behind."""
    statuses = [lived["ended"][0]["status"] for lived in found[: len(moments())]]
    assert sum(status != 0 for status in statuses) >= (60 if NIGHTLY else 5)


def passing(names: list[str]) -> list[str]:
    """What no command leaves; an unfinished data set stays, hidden, for the command that goes on with it."""
    found = [name for name in names if IN_PASSING.search(name) and not name.startswith(".prepared.partial")]
    return found + [name for name in names if name.startswith("tmp/")]


@pytest.mark.parametrize("place", range(len(moments())))
def test_a_signal_leaves_nothing_behind_and_the_command_goes_on(place: int, found: list[dict[str, Any]]) -> None:
    name, number, at = moments()[place]
    (ended,), again = found[place]["ended"], found[place]["again"]
    assert ended["status"] in (0, 128 + getattr(signal, number), -getattr(signal, number)), ended
    assert "Traceback" not in ended["shown"]
    assert passing(found[place]["left"]) == [], f"{name}, {number} at {at}"
    if ended["status"] or name in ("resume", "evaluate", "figure"):
        # A command that had ended before the signal came refuses to write over what it wrote.
        assert {more["status"] for more in again} <= {0}, again
    assert passing(found[place]["after"]) == []
    assert not any(name.startswith(".prepared") for name in found[place]["after"])


@pytest.mark.parametrize("place", range(len(AT_ONCE)))
def test_of_commands_at_once_one_writes_a_folder_and_the_others_say_so(place: int, found: list[dict[str, Any]]) -> None:
    lived = found[len(moments()) + place]
    statuses = [ended["status"] for ended in lived["ended"]]
    assert statuses.count(0) >= 1 and set(statuses) <= {0, 2}, lived["ended"]
    for ended in lived["ended"]:
        if ended["status"]:
            last = ended["shown"].rstrip("\n").rpartition("\n")[2].rpartition("\r")[2]
            assert last.startswith("roi-progressive: error: `out` must be") and "Traceback" not in ended["shown"]
    assert passing(lived["left"]) == []
    assert [more["status"] for more in lived["again"]] == [0, 0], lived["again"]
