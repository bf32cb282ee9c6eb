"""Commands that are sent signals, or run at once, for the tests of that: ``python signalled.py CASES``.

Every command is a process forked from this one, which has imported all of it and computed nothing. The file of cases is
JSON: ``start`` is copied for each case, and of each case

- ``commands``: what is typed, each by a process of its own, all at once; ``PLACE`` stands for the copy;
- ``signal``: sent to the first of them, ``after_s`` so long after it was started, or before its ``call``-th call that
  opens, renames or removes a file of the copy;
- ``again``: what is typed afterwards, one after the other, to see that it goes on.

What was found goes beside the cases, with the suffix ``.out``: for each command its status and the last line of
standard error, and the names of all files there were when the commands had ended.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from roi_progressive.cli.main import main

OPENS_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MODULES = ("data.prepare", "runs.train", "runs.evaluate", "runs.figure", "runs.demo", "check.host_check")
FOREIGN = ("PIL.Image", "scipy.ndimage", "skimage.measure", "skimage.metrics", "skimage.transform", "tqdm", "filelock")


def watch_calls(folder: Path, seen: Callable[[int], None]) -> None:
    """Tell ``seen`` of every call of this process, from 1, that is about to change a file below ``folder``."""
    n_calls = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_calls
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        writes = writes or (event == "open" and bool(arguments[2] & OPENS_TO_WRITE))
        if writes and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(f"{folder}{os.sep}"):
            n_calls += 1
            seen(n_calls)

    sys.addaudithook(hook)


def started(arguments: list[str], errors: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """A command in a process of its own."""
    child = os.fork()
    if child:
        return child
    status = 70  # of an error that is no user's mistake
    try:
        prepare()
        with open(errors, "w", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8")
            status = main(arguments)
            sys.stderr.flush()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int, errors: Path) -> dict[str, Any]:
    status = os.waitpid(child, 0)[1]
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    shown = errors.read_text(encoding="utf-8", errors="replace")
    return {"status": code, "shown": shown}


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def lived(case: dict[str, Any], start: Path, place: Path) -> dict[str, Any]:
    shutil.copytree(start, place)

    def typed(arguments: list[str]) -> list[str]:
        return [word.replace("PLACE", str(place)) for word in arguments]

    temporary = place / "tmp"
    temporary.mkdir()

    def its_own_place_for_passing_files() -> None:
        tempfile.tempdir = str(temporary)

    def signal_itself() -> None:
        its_own_place_for_passing_files()
        chosen = getattr(signal, case["signal"])
        watch_calls(place, lambda number: os.kill(os.getpid(), chosen) if number == case["call"] else None)

    errors = [place.with_name(f"{place.name}.{number}.err") for number in range(len(case["commands"]))]
    at_call = signal_itself if "call" in case else its_own_place_for_passing_files
    children = [started(typed(words), file, at_call) for words, file in zip(case["commands"], errors, strict=True)]
    if "after_s" in case:
        time.sleep(case["after_s"])
        os.kill(children[0], getattr(signal, case["signal"]))
    found = [ended(child, file) for child, file in zip(children, errors, strict=True)]
    left = names_below(place)
    again = [ended(started(typed(words), errors[0]), errors[0]) for words in case.get("again", ())]
    return {"ended": found, "left": left, "again": again, "after": names_below(place)}


def import_everything() -> None:
    for name in MODULES:
        importlib.import_module(f"roi_progressive.{name}")
    for name in FOREIGN:
        importlib.import_module(name)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def main_of_cases(path: Path) -> None:
    given = json.loads(path.read_text(encoding="utf-8"))
    import_everything()
    found = [
        lived(case, Path(given["start"]), path.parent / f"case{number}") for number, case in enumerate(given["cases"])
    ]
    path.with_suffix(".out").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main_of_cases(Path(sys.argv[1]))
