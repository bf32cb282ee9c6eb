"""The command ``roi-progressive``: what was typed is carried out, and every way it can end is reported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import RoiProgressiveError
from ..saving.plain_text import printable
from .parser import COMMANDS, parser
from .streams import ended_by_signals, enduring_streams, interrupted

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and status 2, never a traceback."""
    with ended_by_signals() as signals, enduring_streams():
        status = _run(parser().parse_args(arguments))
        # As a shell reports it, so that who started us can tell an end from a failure.
        return 128 + signals[-1] if status == INTERRUPTED and signals else status


def _run(options: argparse.Namespace) -> int:
    try:
        with interrupted():
            COMMANDS[options.command].run(options)
    except RoiProgressiveError as error:
        return _mistake("; ".join([str(error), *getattr(error, "__notes__", ())]))
    except OSError as error:
        return _mistake(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        if not isinstance(error, MemoryError) and "memory" not in first:
            raise
        return _mistake(f"not enough memory ({first}); use smaller images, batches or networks")
    except KeyboardInterrupt as interrupt:
        more = "".join(f"; {printable(str(text))}" for text in interrupt.args)
        print(f"\nroi-progressive: interrupted{more}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _mistake(text: str) -> int:
    print(f"roi-progressive: error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return 2
