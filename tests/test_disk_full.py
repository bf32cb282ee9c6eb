"""A disk that is full, or a folder that cannot be written: one line, status 2, and what was saved before is whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.checkpoint import checkpoint_name, load_checkpoint
from roi_progressive.run_folder import history, saved_epoch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="limits forked children")
Ask = Callable[..., dict[str, Any]]


def assert_one_line(heard: dict[str, Any], *words: str) -> None:
    """Below the progress bar, which may stand there too."""
    assert heard["status"] == 2, heard["stderr"]
    assert "Traceback" not in heard["stderr"]
    last = heard["stderr"].splitlines()[-1]
    assert last.startswith("roi-progressive: error: ") and heard["stderr"].count("roi-progressive: error") == 1
    for word in words:
        assert word in last, last


def assert_goes_on_to_the_same(
    ask: Ask, run: Path, straight: Path, differing: Callable[..., list[str]], epoch: int
) -> None:
    """The saved epoch is whole; with space again the run ends as if nothing had been."""
    assert saved_epoch(run) == epoch
    load_checkpoint(run / "networks" / checkpoint_name(epoch))
    assert ask(run, "train", "--out", run, "--resume")["status"] == 0
    files = [sorted(path.relative_to(root) for path in root.rglob("*.*")) for root in (run, straight)]
    assert files[0] == files[1] and history(run) == history(straight)
    for path in (straight / "networks").glob("*.pth"):
        this, that = (torch.load(root / "networks" / path.name, weights_only=True) for root in (run, straight))
        assert differing(this, that) == []


FILES = {  # of the second epoch: which event of its writing (open or rename of what), the size to which files may grow
    "networks/2_net_G_A.pth": ("2_net_G_A", 1000),
    "networks/2_roi_progressive.pth": ("2_roi_progressive", 20_000),
    "samples/epoch_0002.png": ("epoch_0002", 10),
    "networks/latest.json": (".latest.json", 3),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_cannot_be_written_to_its_end_is_named_and_the_run_goes_on_later(
    file: str, ask: Ask, tiny_run: list[object], straight_run: Any, tmp_path: Path, differing: Callable[..., list[str]]
) -> None:
    run, (part, limit_bytes) = tmp_path / "run", FILES[file]
    opened = [n for n, (kind, path) in enumerate(straight_run[1]["events"], 1) if kind == "open" and part in path]
    event = opened[-2] if part == ".latest.json" else opened[0]
    heard = ask(run, *tiny_run, "--out", run, in_write=event, bytes=limit_bytes, survive=True)
    assert_one_line(heard, str(run / file), "File too large")
    assert_goes_on_to_the_same(ask, run, straight_run[0], differing, epoch=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A file system in memory, and a function that sets its size; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True, capture_output=True)

    try:
        mount("size=4M")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield disk, lambda size_bytes: mount(f"remount,size={size_bytes}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(
    ask: Ask,
    tiny_run: list[object],
    straight_run: Any,
    small_disk: tuple[Path, Callable[[int], None]],
    differing: Callable[..., list[str]],
) -> None:
    """It holds the files of one epoch, not those of two; the older epoch's go only when the new one's are there."""
    disk, resize = small_disk
    size_bytes = sum(path.stat().st_blocks * 512 for path in straight_run[0].rglob("*") if path.is_file())
    resize(round(1.5 * size_bytes))
    heard = ask(disk / "run", *tiny_run, "--out", disk / "run")
    assert_one_line(heard, "No space left on device", "an older file is untouched")
    resize(4 * size_bytes)
    epoch = saved_epoch(disk / "run")
    assert epoch in (1, 2)
    assert_goes_on_to_the_same(ask, disk / "run", straight_run[0], differing, epoch)


@pytest.mark.parametrize("place", ["networks", "samples", "history.jsonl"])
def test_something_else_in_the_place_of_a_file_or_folder(
    place: str, ask: Ask, tiny_run: list[object], tmp_path: Path
) -> None:
    """Also root cannot write there, whom no mode of a folder stops."""
    run = tmp_path / "run"
    run.mkdir()
    if place == "history.jsonl":
        (run / place / "mine").mkdir(parents=True)
    else:
        (run / place).write_text("mine")
    heard = ask(run, *tiny_run, "--out", run, "--force")
    assert_one_line(heard, str(run / place))
    assert (run / place / "mine").exists() if place == "history.jsonl" else (run / place).read_text() == "mine"
