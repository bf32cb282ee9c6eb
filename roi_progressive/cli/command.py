"""What the commands share: how one is added to the parser, where it computes, and how it prints."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any, NoReturn

from ..saving.plain_text import printable, printable_lines


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error; one word may stand for an option's values.

    Attributes:
        words: By option, the values that a word behind it stands for.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.words: dict[str, dict[str, list[str]]] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, once every word is replaced by its values."""
        typed = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._spelled_out(typed), namespace)

    def _spelled_out(self, typed: list[str]) -> list[str]:
        found: list[str] = []
        for argument in typed:
            option, equals, value = argument.partition("=")
            behind = found[-1] if found and not equals else option
            values = self.words.get(behind, {}).get(value if equals else argument)
            if values is None:
                found.append(argument)
            else:
                found += [option, *values] if equals else values
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"roi-progressive: error: {printable(message)}; see `{self.prog} --help`\n")


def add_command(commands: Any, name: str, text: str, epilog: str) -> Parser:
    """A command's parser; ``commands`` is what ``add_subparsers`` returned."""
    added: Parser = commands.add_parser(name, help=text, description=text, epilog=epilog)
    return added


def add_device(command: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add ``--device``; ``argparse.SUPPRESS`` as the default leaves it out where it was not given."""
    what = "cpu, cuda, cuda:N, mps, or auto, which takes CUDA where there is a GPU, then MPS, then the CPU (auto)"
    command.add_argument("--device", metavar="NAME", default=default, help=what)


def show(text: object) -> None:
    """Print a result; names in it are text, whatever is in them."""
    print(printable_lines(str(text)))


def line_width() -> int:
    """How many characters a line of a table may have: the terminal's, 100 where it is none."""
    from ..evaluation.table import WIDTH

    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def device_line(device: str) -> str:
    """The first line of a command that computes: where."""
    from ..runtime.devices import choose_device, describe_device

    return f"device: {describe_device(choose_device(device))}"
