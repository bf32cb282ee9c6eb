"""Several tasks at once, each in a process of its own; when one fails or the user stops, all of them end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from ..errors import DataError, RoiProgressiveError
from ..saving.signals import ENDING

Report = Callable[[float, str], None]
"""Told of the share done, 0 to 1, and of what is being done."""
Task = Callable[[Report], None]


def run_parallel(tasks: Mapping[str, Task], processes: int, report: Callable[[str, float, str], None]) -> None:
    """Run tasks, some at a time, one thread each.

    Args:
        tasks: By name, picklable; each is given its own report.
        processes: How many at a time.
        report: Told of a task's name, the share of it done, and of what it is doing.

    Raises:
        RoiProgressiveError: What a task raised; the others are ended.
        OSError: The same.
        RuntimeError: A task failed otherwise; the message holds its traceback.
    """
    waiting = list(tasks.items())
    running: dict[Connection, tuple[str, SpawnProcess]] = {}
    at: dict[str, str] = {}

    def note(name: str, share: float, text: str) -> None:
        at[name] = text
        report(name, share, text)

    try:
        while waiting or running:
            while waiting and len(running) < processes:
                name, task = waiting.pop(0)
                channel, process = _start(task)
                running[channel] = name, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                name, process = running[ready]
                if _took_last_message(ready, name, process, note, at):
                    del running[ready]
    finally:
        for channel, (_, process) in running.items():
            process.terminate()
            process.join()
            channel.close()


def _start(task: Task) -> tuple[Connection, SpawnProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, theirs), daemon=True)
    with _single_threaded(), _interrupts_later():
        process.start()
    theirs.close()  # so that the pipe ends with the process
    return ours, process


def _took_last_message(
    channel: Connection,
    name: str,
    process: SpawnProcess,
    report: Callable[[str, float, str], None],
    at: Mapping[str, str],
) -> bool:
    """Take one message; whether it was the last."""
    try:
        message = channel.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise DataError(
            f"`{name}` must run to its end; its process was killed (status {process.exitcode})"
            f"{f' at {at[name]}' if name in at else ''}, most often for want of memory; use --processes 1"
        ) from None
    if isinstance(message, BaseException):
        raise message
    if message is not None:
        report(name, *message)
        return False
    process.join()
    channel.close()
    return True


def _work(task: Task, channel: Connection) -> None:
    for number in ENDING:  # the parent gets what a terminal sends to all, and ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # by way of whatever is to be put away
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        task(lambda share, text: channel.send((share, text)))
        channel.send(None)
    except (BrokenPipeError, SystemExit):  # the parent is gone, or ends us
        return
    except (RoiProgressiveError, OSError) as error:
        channel.send(error)
    except BaseException:  # it must reach the parent, with its traceback, whatever it is
        channel.send(RuntimeError(traceback.format_exc()))


def _end_with_parent() -> None:
    """However the parent ends, also when it is killed: nobody would take the result."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """OMP_NUM_THREADS is read by torch when a process starts."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """A Ctrl-C waits until the block ends; a process started in it is deaf to it from its first moment on."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signals, or gets any
        yield
        return
    interrupts: list[int] = []
    # A handler for what other threads let through, and a mask because a new process inherits that and no handler.
    handler = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    masked = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if masked else set()
    try:
        if masked:
            # Python's tracker of shared resources, which starts with the first process, would take the mask away.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if interrupts:
        raise KeyboardInterrupt
