"""``roi-progressive train`` under torchrun: one run, whoever counts the processes, and one line where one fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roi_progressive.cli.launch import process_group
from roi_progressive.runs.folder import PREPARATION_FILE, history
from roi_progressive.runs.kept_epochs import best_epoch, saved_epoch
from roi_progressive.runs.train import resume
from roi_progressive.runs.validation import validations
from roi_progressive.saving.records import read_json, write_json

HANGS_AFTER_S = 150
EPOCHS = 25  # of two steps each
TINY = ("--channels", "2", "--depth", "2", "--discriminator-channels", "2", "--discriminator-layers", "1")
CONFIG = """
pool_size = 2
[ggd]
hidden_channels = 2
[[regions]]
name = "tumor"
scales = 2
windows_px = [24, 32]
base_channels = 2
stage = 1
"""
# Every process leaves its weights beside the run, which only the first may write.
SPY = """
import os, sys, torch
from roi_progressive import cli
from roi_progressive.runs import train as run
from roi_progressive.training.session import Session

sessions, models = [], []
made = run.create_model
run.create_model = lambda options: models.append(made(options)) or models[-1]
connect = Session._connect
Session._connect = lambda self, *rest: sessions.append(self) or connect(self, *rest)
networks = Session.close
def close(self):
    own = {f"ours.{i}.{k}": v for i, n in enumerate(self.networks()) for k, v in n.state_dict().items()}
    host = {f"{name}.{i}": p.detach() for name in models[-1].model_names
            for i, p in enumerate(getattr(models[-1], "net" + name).parameters())}
    torch.save({**own, **host}, f"{os.environ['SPY']}/{os.environ['RANK']}.pth")
    networks(self)
Session.close = close
sys.exit(cli.main(sys.argv[1:]))
"""

pytestmark = pytest.mark.usefixtures("one_thread")


def _torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    script = folder / "spy.py"
    script.write_text(SPY, encoding="utf-8")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SPY": str(folder)}
    return subprocess.run(
        (*launcher, "train", *arguments), env=env, capture_output=True, encoding="utf-8", timeout=HANGS_AFTER_S
    )


@pytest.fixture(scope="module")
def folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by two processes."""
    made = tmp_path_factory.mktemp("torchrun")
    shutil.copytree(small_data, made / "data")
    (made / "roi.toml").write_text(CONFIG, encoding="utf-8")
    given = ("--data", str(made / "data"), "--out", str(made / "run"), "--config", str(made / "roi.toml"))
    often = ("--save-every-epochs", "10", "--validate-every", "5")
    done = _torchrun(made, *given, *TINY, "--epochs", str(EPOCHS), "--decay-epochs", "0", *often)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("is trained") == 1
    return made


def _weights(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in (0, 1)]


def _n_steps(run: Path) -> int:
    state = torch.load(next((run / "networks").glob("*_roi_progressive.pth")), weights_only=True)
    return int(state["steps"])


def test_all_processes_hold_the_same_weights_after_50_steps(folder: Path) -> None:
    first, second = _weights(folder)
    assert _n_steps(folder / "run") == 50
    assert first.keys() == second.keys() and any(name.startswith("ours") for name in first)
    for name, weights in first.items():
        assert torch.equal(weights, second[name]) and bool(weights.isfinite().all()), name


def test_the_first_process_alone_writes(folder: Path) -> None:
    run = folder / "run"
    assert [line["epoch"] for line in history(run)] == list(range(1, EPOCHS + 1))
    assert saved_epoch(run) == EPOCHS
    assert [line["epoch"] for line in validations(run)] == [5, 10, 15, 20, 25]
    names = {path.name for path in (run / "networks").iterdir()}
    averages = ("average_G_A", "average_G_B")
    of_an_epoch = (
        "optimizers",
        "roi_progressive",
        *averages,
        *(f"net_{name}" for name in ("D_A", "D_B", "G_A", "G_B")),
    )
    kept = {f"{epoch}_{name}.pth" for epoch in (EPOCHS, best_epoch(run)) for name in of_an_epoch}
    assert names == {*kept, PREPARATION_FILE, "latest.json", "best.json"}
    first, _ = _weights(folder)
    saved = torch.load(run / "networks" / f"{EPOCHS}_net_G_A.pth", weights_only=True)
    assert all(torch.equal(weights, first[f"G_A.{place}"]) for place, weights in enumerate(saved.values()))


def test_one_process_goes_on_with_what_two_began_and_two_with_what_one_did(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    _longer(run, EPOCHS + 1)
    resume(run)
    assert saved_epoch(run) == EPOCHS + 1
    moments = torch.load(run / "networks" / f"{EPOCHS + 1}_optimizers.pth", weights_only=True)["moments"]
    steps = {int(state["step"]) for of_optimizer in moments for state in of_optimizer.values()}
    before = torch.load(folder / "run" / "networks" / f"{EPOCHS}_optimizers.pth", weights_only=True)["moments"]
    assert steps == {int(state["step"]) + _steps_alone(run) for o in before for state in o.values()}
    _longer(run, EPOCHS + 2)
    done = _torchrun(tmp_path, "--out", str(run), "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = _weights(tmp_path)
    assert all(torch.equal(weights, second[name]) for name, weights in first.items())
    assert [line["epoch"] for line in history(run)] == list(range(1, EPOCHS + 3))


def _steps_alone(run: Path) -> int:
    """Of one process, in an epoch."""
    described = read_json(run / "run.json")
    return len(list((Path(described["data"]) / "trainA").iterdir()))


def _longer(run: Path, epochs: int) -> None:
    path = run / "run.json"
    described = read_json(path)
    described["options"]["epochs"] = epochs
    write_json(path, described)


def test_a_mistake_is_one_line_of_ours_and_ends_all(folder: Path, tmp_path: Path) -> None:
    given = ("--data", str(folder / "data"), "--out", str(folder / "run"))
    done = _torchrun(tmp_path, *given, *TINY)
    assert done.returncode != 0 and not done.stdout
    ours = [line for line in done.stderr.splitlines() if line.startswith("roi-progressive:")]
    assert len(ours) == 1 and "must be a new or empty folder" in ours[0]
    assert "cli.py" not in done.stderr  # no traceback through our code


def test_alone_no_process_group_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with process_group():
        assert not torch.distributed.is_initialized()
