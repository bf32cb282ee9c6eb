"""``roi-progressive completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .command import add_command

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive completion``."""
    text = "Print the script by which a shell completes the commands, options and paths (needs shtab)."
    epilog = (
        "bash: roi-progressive completion bash > ~/.local/share/bash-completion/completions/roi-progressive; zsh: "
        "into a file _roi-progressive in a folder of $fpath; tcsh: into a file that ~/.tcshrc sources."
    )
    completion = add_command(commands, "completion", text, epilog)
    completion.add_argument("shell", choices=SHELLS, help="the shell it is for")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError(
            "`completion` needs the package shtab; it is not installed; pip install 'roi-progressive[completion]', or "
            "shtab alone"
        ) from error
    top = options.every_command
    for action in _actions(top):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own
    print(shtab.complete(top, options.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of the parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
