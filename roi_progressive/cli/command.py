"""What the commands share: how one is added to the parser, where it computes, and how it prints."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RoiProgressiveError
from ..saving.plain_text import printable, printable_lines

_CHOICES = re.compile(r"invalid choice: '(?P<typed>[^']*)' \(choose from (?P<choices>[^)]*)\)$")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error, with the nearest word there is for one that there is not.

    Attributes:
        words: By option, the values that one word behind it stands for.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.words: dict[str, dict[str, list[str]]] = {}
        self._typed: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]  # its overloads tell namespaces apart, which we hand on
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse does; a command reports what it does not know itself, for it knows what is near."""
        self._typed = self._spelled_out(sys.argv[1:] if args is None else args)
        known, unknown = super().parse_known_args(self._typed, namespace)
        if unknown and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def _spelled_out(self, typed: Sequence[str]) -> list[str]:
        """What was typed, every word that stands for values replaced by them."""
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
        found = _CHOICES.search(message)
        known: dict[str, Iterable[str]] = {word: self._option_string_actions for word in self._unknown_options()}
        if found is not None:
            known[found["typed"]] = [word.strip(" '") for word in found["choices"].split(",")]
        for word, words in known.items():
            near = _nearest(word, words)
            if near is not None:
                told = "" if word in message else f"{word} is no option; "
                message += f"; {told}did you mean {near}?"
        self.exit(2, f"roi-progressive: error: {printable(message)}; see `{self.prog} --help`\n")

    def _unknown_options(self) -> list[str]:
        """What was typed as an option of this parser and is none, nor the beginning of one.

        After ``--`` come another program's, and after a command its own.
        """
        ours = itertools.takewhile(lambda word: word != "--", self._typed)
        if self._subparsers is not None:
            ours = itertools.takewhile(lambda word: word.startswith("-"), ours)
        options = [word.partition("=")[0] for word in ours if word.startswith("--")]
        return [word for word in options if not any(known.startswith(word) for known in self._option_string_actions)]


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def add_command(commands: Any, name: str, text: str, epilog: str) -> Parser:
    """A command's parser; ``commands`` is what ``add_subparsers`` returned."""
    added: Parser = commands.add_parser(name, help=text.replace("%", "%%"), description=text, epilog=epilog)
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


def line_width() -> int:
    """How many characters a line of a table may have: the terminal's, 100 where it is none."""
    from ..evaluation.table import WIDTH

    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def networks_line(run: Path, epoch: str | None) -> str:
    """Which networks of a run a command takes, as its first lines say it; empty where it will say what is wrong."""
    from ..runs.folder import networks_of
    from ..runs.kept_epochs import chosen_epoch, epoch_in_words

    networks = networks_of(run)
    try:
        return f"networks: {epoch_in_words(networks, chosen_epoch(networks, epoch))}"
    except RoiProgressiveError:
        return ""


def device_line(device: str) -> str:
    """The first line of a command that computes: where."""
    from ..runtime.devices import choose_device, describe_device

    return f"device: {describe_device(choose_device(device))}"


def first_line(device: str, run: Path | None, epoch: str | None) -> str:
    """What is said as a command begins to compute with the networks of a run: where, and with which."""
    return "; ".join(filter(None, (device_line(device), "" if run is None else networks_line(run, epoch))))
