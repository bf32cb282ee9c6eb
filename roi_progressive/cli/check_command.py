"""``roi-progressive check``: looks at a host before a long run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .command import add_command, show
from .progress import ProgressBar


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive check``."""
    text = "Look at a host's checkout, its data and the regions, before a long run."
    check = add_command(
        commands, "check", text, "The host's own options go last: roi-progressive check ... -- --model pix2pix"
    )
    check.add_argument("--host", type=Path, required=True, help="folder of the checkout, the one that holds train.py")
    check.add_argument("--data", type=Path, required=True, metavar="DIR", help="what the host calls --dataroot")
    check.add_argument("--config", type=Path, metavar="TOML", help="regions, stages, uncertainty (a region `tumor`)")
    check.add_argument("host_options", nargs="*", metavar="-- HOST_OPTIONS", help="as given to the host's train.py")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    with ProgressBar("check", delay_s=1.0) as bar:
        from ..check.host_check import check_host  # takes seconds
        from ..config import Config

        config = Config() if options.config is None else Config.from_toml(options.config)
        findings = check_host(options.host, options.data, config, options.host_options, report=bar.step)
    show(findings)
