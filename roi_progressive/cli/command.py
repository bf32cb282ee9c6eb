"""What the commands share: how one is added to the parser, where it computes, and how it prints."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ..saving.plain_text import printable, printable_lines


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"roi-progressive: error: {printable(message)}; see `{self.prog} --help`\n")


def add_command(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    """A command's parser; ``commands`` is what ``add_subparsers`` returned."""
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, epilog=epilog)
    return added


def add_device(command: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add ``--device``; ``argparse.SUPPRESS`` as the default leaves it out where it was not given."""
    what = "cpu, cuda, cuda:N, mps, or auto, which takes CUDA where there is a GPU, then MPS, then the CPU (auto)"
    command.add_argument("--device", metavar="NAME", default=default, help=what)


def add_epoch(command: argparse.ArgumentParser) -> None:
    """Add ``--epoch``: whose networks of a run to use."""
    command.add_argument(
        "--epoch", metavar="WHICH", help="whose networks: best (see train --keep), last, or the number of either (last)"
    )


def show(text: object) -> None:
    """Print a result; names in it are text, whatever is in them."""
    print(printable_lines(str(text)))


def device_line(device: str) -> str:
    """The first line of a command that computes: where."""
    from ..runtime.devices import choose_device, describe_device

    return f"device: {describe_device(choose_device(device))}"
