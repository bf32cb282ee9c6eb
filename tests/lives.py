"""Runs that are killed and go on, for the tests of that: ``python lives.py CASES`` with a JSON file of cases.

Every life of a run is a process forked from this one, which has imported torch and computed nothing, so that a life
costs no second import. Where a life ends, the kernel ends it: no handler, no ``finally`` runs. It ends

- ``{"step": n, "after_s": t}``: by SIGKILL, ``t`` seconds after the ``n``-th step or volume, whatever it is doing then;
- ``{"call": share}``: by SIGKILL, before a call that opens, renames or removes a file of the run's, the one at this
  share of all such calls of a run that nobody stops;
- ``{"call": share, "torn_bytes": n}``: by SIGXFSZ, in the first write past the ``n``-th byte of a file after that call.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roi_progressive.config import Config
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.runs.folder import history
from roi_progressive.runs.kept_epochs import saved_epoch
from roi_progressive.runs.train import TrainOptions, resume, train

OPENS_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Report = Callable[[int, int, str], None]


def count_calls(folder: Path, seen: Callable[[int], None]) -> None:
    """Tell ``seen`` of every call of this process, from 1, that is about to change a file below ``folder``."""
    n_calls = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_calls
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        writes = writes or (event == "open" and bool(arguments[2] & OPENS_TO_WRITE))
        if writes and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(str(folder)):
            n_calls += 1
            seen(n_calls)

    sys.addaudithook(hook)


def end_at_call(folder: Path, number: int, torn_bytes: int | None) -> None:
    def seen(n_calls: int) -> None:
        if n_calls != number:
            return
        if torn_bytes is None:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (torn_bytes, torn_bytes))

    count_calls(folder, seen)


def live(work: Callable[[Report], None], folder: Path, end: dict[str, Any], n_calls: int) -> int:
    """One life; returns the signal that ended it, 0 where none did.

    Raises:
        RuntimeError: It ended in an error.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if "call" in end:
                end_at_call(folder, 1 + int(end["call"] * n_calls), end.get("torn_bytes"))
            step = end.get("step")
            work(lambda done, total, text: os.write(writer, b".") and None if done == step else None)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    if os.read(reader, 1):  # nothing comes from a life that ended without reaching the step
        time.sleep(end["after_s"])
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"a life of {folder} ended in the error above")
    return 0


def calls_of_a_whole_run(work: Callable[[Report], None], folder: Path, tally: Path) -> int:
    def counted(report: Report) -> None:
        count_calls(folder, lambda n_calls: tally.open("a", encoding="utf-8").write("x") and None)
        work(report)

    live(counted, folder, {}, 0)
    return len(tally.read_text(encoding="utf-8"))


def training(given: dict[str, Any], folder: Path) -> Callable[[Report], None]:
    """Go on from the newest saved epoch, or begin where there is none; what a user does after a crash."""
    config, options = Config.from_mapping(given["config"]), TrainOptions(**given["options"])

    def work(report: Report) -> None:
        if saved_epoch(folder) is None:
            np.random.seed(0)  # the host seeds all streams but this one
            train(given["data"], folder, options, config, force=True, report=report)
        else:
            for seed in (random.seed, np.random.seed, torch.manual_seed):  # another process has other streams
                seed(os.getpid())
            resume(folder, report=report)

    return work


def preparing(given: dict[str, Any], folder: Path) -> Callable[[Report], None]:
    """Go on with what is left of a stopped preparation; a folder that is there is whole."""
    options = PrepareOptions(size_px=32, mr_steps=("standardise", "clip", "zscore"))

    def work(report: Report) -> None:
        if not folder.exists():
            prepare(given["table"], folder, options, report=report)

    return work


def import_all_of(what: str) -> None:
    """What a life imports on its way and need not twice; an optimizer's first import costs more than a life."""
    if what == "train":
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    else:
        for module in (
            "PIL.Image",
            "scipy.ndimage",
            "SimpleITK",
            "skimage.filters",
            "skimage.measure",
            "skimage.restoration",
            "skimage.transform",
        ):
            importlib.import_module(module)


def main(path: Path) -> None:
    """Live through every case, to its end; what was found on the way goes to ``path`` with the suffix ``.out``."""
    given = json.loads(path.read_text(encoding="utf-8"))
    import_all_of(given["what"])
    make = {"train": training, "prepare": preparing}[given["what"]]
    straight = path.parent / "straight" / "run"
    straight.parent.mkdir()
    n_calls = calls_of_a_whole_run(make(given, straight), straight.parent, path.with_suffix(".calls"))
    found = []
    for number, ends in enumerate(given["cases"]):
        run = path.parent / f"case{number}" / "run"
        run.parent.mkdir()
        lives = []
        for end in [*ends, {}]:
            ended = live(make(given, run), run.parent, end, n_calls)
            lives.append({"signal": ended, "saved": saved_epoch(run), "epochs": len(history(run))})
        found.append(lives)
    path.with_suffix(".out").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
