"""Killed at any moment, also within a write, a run goes on from its newest whole checkpoint and ends in the same bits.

The ordinary suite has a few kills; ``ROI_PROGRESSIVE_NIGHTLY=1`` has one at every file event of a run, and more.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.checkpoint import checkpoint_name, load_checkpoint
from roi_progressive.run_folder import saved_epoch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
NIGHTLY = os.environ.get("ROI_PROGRESSIVE_NIGHTLY") == "1"
NETWORKS = ("G_A", "G_B", "D_A", "D_B")
Ask = Callable[..., dict[str, Any]]
Differing = Callable[..., list[str]]


def content(run: Path) -> dict[str, Any]:
    """Every file below a run's folder: tensors as such (torch writes the name of the process into its files)."""
    files = {str(path.relative_to(run)): path for path in sorted(run.rglob("*")) if path.is_file()}
    return {
        name: torch.load(path, weights_only=True) if path.suffix == ".pth" else path.read_bytes()
        for name, path in files.items()
    }


def assert_what_is_pointed_at_loads(run: Path) -> None:
    epoch = saved_epoch(run)
    if epoch is not None:
        load_checkpoint(run / "networks" / checkpoint_name(epoch))
        for name in NETWORKS:
            torch.load(run / "networks" / f"{epoch}_net_{name}.pth", weights_only=True)


def go_on(ask: Ask, tiny_run: list[object], run: Path, **kill: Any) -> dict[str, Any]:
    """As a user would: resume; where nothing was saved, as the message says, begin anew."""
    if saved_epoch(run) is not None:
        return ask(run, "train", "--out", run, "--resume", **kill)
    refused = ask(run, "train", "--out", run, "--resume")
    assert refused["status"] == 2 and refused["stderr"].count("\n") == 1, refused["stderr"]
    assert refused["stderr"].startswith("roi-progressive: error: `run` must ")
    return ask(run, *tiny_run, "--out", run, "--force", **kill)


def assert_the_same_in_the_end(
    ask: Ask, tiny_run: list[object], run: Path, straight: Path, differing: Differing
) -> None:
    assert_what_is_pointed_at_loads(run)
    done = go_on(ask, tiny_run, run)
    assert done["status"] == 0, done["stderr"]
    assert differing(content(run), content(straight)) == []


def events_of(heard: dict[str, Any], kind: str, part: str) -> list[int]:
    """At which events, from 1, a file whose path holds ``part`` is touched so."""
    return [n for n, (event, path) in enumerate(heard["events"], start=1) if event == kind and part in path]


MOMENTS = {
    "run.json is renamed": ("os.rename", ".run.json", 0),
    "our checkpoint is renamed": ("os.rename", "2_roi_progressive", 0),
    "the pointer is renamed": ("os.rename", ".latest.json", 1),
    "the older files are removed": ("os.remove", "/1_net", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_where(
    moment: str,
    ask: Ask,
    tiny_run: list[object],
    straight_run: Any,
    tmp_path: Path,
    differing: Differing,
) -> None:
    kind, part, which = MOMENTS[moment]
    killed = ask(tmp_path, *tiny_run, "--out", tmp_path / "run", at_event=events_of(straight_run[1], kind, part)[which])
    assert killed["signal"] == signal.SIGKILL
    assert_the_same_in_the_end(ask, tiny_run, tmp_path / "run", straight_run[0], differing)


@pytest.mark.parametrize("part", ["2_roi_progressive", "history.jsonl", "2_net_G_A"][: None if NIGHTLY else 1])
def test_killed_within_a_write(
    part: str, ask: Ask, tiny_run: list[object], straight_run: Any, tmp_path: Path, differing: Differing
) -> None:
    """The file is cut off in the middle: of our checkpoint, of the first line of the history, of a network."""
    run, heard = straight_run
    size_bytes = 100 if part == "history.jsonl" else next(run.glob(f"networks/*{part[1:]}.pth")).stat().st_size // 3
    cut = {"in_write": events_of(heard, "open", part)[0], "bytes": size_bytes}
    killed = ask(tmp_path, *tiny_run, "--out", tmp_path / "run", **cut)
    assert killed["signal"] == signal.SIGXFSZ
    assert_the_same_in_the_end(ask, tiny_run, tmp_path / "run", run, differing)


def kill_at_a_random_moment(
    ask: Ask, start: Callable[..., dict[str, Any]], seconds: float, rng: random.Random
) -> dict[str, Any]:
    """Kill within the first so many seconds; a run that was faster is none, and the next time is shorter."""
    while True:
        heard = start(after_s=rng.uniform(0, seconds))
        if heard["signal"]:
            return heard
        seconds /= 2


@pytest.mark.parametrize("seed", range(12 if NIGHTLY else 1))
def test_killed_again_and_again_at_random_moments(
    seed: int, ask: Ask, tiny_run: list[object], straight_run: Any, tmp_path: Path, differing: Differing
) -> None:
    run, rng = tmp_path / "run", random.Random(seed)
    seconds = straight_run[1]["seconds"]

    def begin(**kill: Any) -> dict[str, Any]:
        shutil.rmtree(run, ignore_errors=True)
        return ask(run, *tiny_run, "--out", run, **kill)

    assert kill_at_a_random_moment(ask, begin, seconds, rng)["signal"] == signal.SIGKILL
    for _ in range(3 if NIGHTLY else 1):
        go_on(ask, tiny_run, run, after_s=rng.uniform(0, seconds))
        assert_what_is_pointed_at_loads(run)
    assert_the_same_in_the_end(ask, tiny_run, run, straight_run[0], differing)


@pytest.mark.skipif(not NIGHTLY, reason="a kill at every file event: ROI_PROGRESSIVE_NIGHTLY=1")
def test_killed_at_every_file_event(
    ask: Ask, tiny_run: list[object], straight_run: Any, tmp_path: Path, differing: Differing
) -> None:
    events = len(straight_run[1]["events"])
    for event in range(1, events + 1):
        run = tmp_path / str(event)
        killed = ask(run, *tiny_run, "--out", run, at_event=event)
        assert killed["signal"] == signal.SIGKILL, f"event {event} of {events}"
        assert_the_same_in_the_end(ask, tiny_run, run, straight_run[0], differing)
        shutil.rmtree(run)
    print(f"{events} kills")


# -- prepare ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(ask: Ask, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The data set that nobody killed, and what was heard of it."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    heard = ask(out.parent, *prepare_into(out, scans))
    assert heard["status"] == 0, heard["stderr"]
    return out, heard


@pytest.fixture(scope="module")
def scans(write_scans: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"))


def prepare_into(out: Path, scans: Path) -> list[object]:
    return ["prepare", scans, out, "--size", 32, "--align", "--slices-each-side", 0]


def events_to_kill_at(heard: dict[str, Any]) -> list[int]:
    """In the ordinary suite two: in the middle of the pictures, and when the folder gets its place."""
    renames = [n for n, (event, _) in enumerate(heard["events"], start=1) if event == "os.rename"]
    pictures = events_of(heard, "os.rename", "aside")
    return list(range(1, len(heard["events"]) + 1)) if NIGHTLY else [pictures[len(pictures) // 2], renames[-2]]


def test_prepare_killed_goes_on_and_ends_in_the_same_bytes(
    ask: Ask, scans: Path, prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole = content(prepared[0])
    for event in events_to_kill_at(prepared[1]):
        out = tmp_path / str(event) / "out"
        killed = ask(out.parent, *prepare_into(out, scans), at_event=event)
        assert killed["signal"] == signal.SIGKILL
        if not out.exists():  # else only tidying up was left to do
            again = ask(out.parent, *prepare_into(out, scans))
            assert again["status"] == 0, again["stderr"]
            assert [path.name for path in out.parent.iterdir()] == ["out"]
        assert content(out) == whole
