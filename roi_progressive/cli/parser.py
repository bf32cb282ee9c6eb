"""The parser of ``roi-progressive``: every command and its options."""

from __future__ import annotations

import argparse

from .. import __version__
from . import (
    calibrate_command,
    check_command,
    completion_command,
    demo_command,
    evaluate_command,
    export_command,
    figure_command,
    plugins_command,
    prepare_command,
    scan_command,
    train_command,
    translate_command,
    weights_command,
)
from .command import Parser

# In the order in which a newcomer meets them.
COMMANDS = {
    "demo": demo_command,
    "scan": scan_command,
    "prepare": prepare_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "calibrate": calibrate_command,
    "figure": figure_command,
    "translate": translate_command,
    "export": export_command,
    "check": check_command,
    "weights": weights_command,
    "plugins": plugins_command,
    "completion": completion_command,
}


def parser() -> argparse.ArgumentParser:
    """The parser; of its result ``command`` is the command's name, ``every_command`` the parser itself.

    ``train`` leaves out what was not given, under the names of ``TrainOptions``.
    """
    top = Parser(
        prog="roi-progressive",
        description="Make the regions that matter right when scans of one kind are translated into another, CT to MR.",
        epilog="A2B in options, files and logs is the direction from domain A to domain B, CT to MR unless `prepare "
        "--domains` named others; B2A leads back. Tables and figures call the domains by their names.",
    )
    top.add_argument("--version", action="version", version=f"roi-progressive {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command in COMMANDS.values():
        command.add(commands)
    top.set_defaults(every_command=top)  # for `completion`
    return top
