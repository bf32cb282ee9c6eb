"""Runs commands of ``roi-progressive`` in forked children that can be killed at a given moment; started by tests.

Importing torch takes seconds, and a hundred kills need a hundred processes: this one imports everything once, starts no
thread, and forks. A request is a line of JSON on standard input, its answer a line of JSON on standard output:

``arguments``: of the command. ``folder``: whose files count.
``at_event``: SIGKILL before the n-th open, rename, remove or mkdir of Python's below the folder, from 1.
``in_write``: at that event the file size is limited to ``bytes``; the next write beyond it is cut there, and with
``survive`` fails with an OSError (EFBIG), without it ends the process by SIGXFSZ, which nothing catches either.
``after_s``: SIGKILL so many seconds after the start.

The answer has ``signal`` (or 0), ``status``, ``stdout``, ``stderr``, ``events`` (each as name and path) and
``seconds``.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
import time
from typing import Any

PIPE_BYTES = 1 << 20
WATCHED = ("open", "os.rename", "os.remove", "os.mkdir")


def watch(request: dict[str, Any], noted: int) -> None:
    """In the child: note every file event below the folder, and kill this process at the one that was asked for."""
    seen = 0

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in WATCHED or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(arguments[0])
        if request["folder"] not in path:
            return
        seen += 1
        os.write(noted, f"{json.dumps([event, path])}\n".encode())
        if seen == request.get("at_event"):
            os.kill(os.getpid(), signal.SIGKILL)
        if seen == request.get("in_write"):
            if not request.get("survive"):
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["bytes"],) * 2)

    sys.addaudithook(hear)


def run_child(request: dict[str, Any], files: list[int]) -> None:
    """In the child: never returns."""
    from roi_progressive.cli import main

    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8", buffering=1)
    watch(request, files[2])
    status = 70
    try:
        status = main(request["arguments"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for the request, wait for its end, and tell of it."""
    # Pipes, which no limit of a file's size holds back; what a command says fits into them.
    pipes = [os.pipe() for _ in ("stdout", "stderr", "events")]
    for _, write in pipes:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        run_child(request, [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    if "after_s" in request:
        time.sleep(request["after_s"])
        os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    stdout, stderr, events = (read_all(read) for read, _ in pipes)
    return {
        "signal": os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0,
        "status": os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else None,
        "stdout": stdout,
        "stderr": stderr,
        "events": [json.loads(line) for line in events.splitlines()],
        "seconds": seconds,
    }


def read_all(pipe: int) -> str:
    """What was written into a pipe whose other end is closed."""
    with open(pipe, encoding="utf-8", errors="replace") as file:
        return file.read()


def import_everything() -> None:
    """What the children need, so that each does not import it anew."""
    import matplotlib.figure  # noqa: F401
    import torch

    import roi_progressive.data.prepare
    import roi_progressive.run  # noqa: F401

    for name in ("SimpleITK", "skimage.restoration", "scipy.ndimage"):
        try:
            __import__(name)
        except ImportError:
            continue
    torch.set_num_threads(1)


if __name__ == "__main__":
    import_everything()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
