"""``roi-progressive weights``: which pretrained weights there are to get, where they go, and whether they are there."""

from __future__ import annotations

import argparse
import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_command, show

if TYPE_CHECKING:
    from ..evaluation.networks import WeightsFile


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive weights``."""
    text = "Say which weights LPIPS, FID and KID need, where to get them, and whether they are found here."
    epilog = "Nothing is downloaded, by this command or any other. A checksum is compared where the file is found."
    weights = add_command(commands, "weights", text, epilog)
    weights.add_argument(
        "--weights", type=Path, metavar="DIR", help="look here first, as `evaluate --weights DIR` does"
    )


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..evaluation.networks import WEIGHTS

    show("\n\n".join(_described(file, options.weights) for file in WEIGHTS))


def _described(file: WeightsFile, folder: Path | None) -> str:
    places = file.places(folder)
    found = [place for place in places if place.is_file()]
    lines = [
        f"{file.scores}: {file.name}",
        f"  from     {file.url}",
        f"  size     {file.size_mib:.0f} MiB",
        f"  SHA-256  begins with {file.sha256_begins}, by its name",
        *(f"  looked for as {place}: {_state(place, file)}" for place in places),
    ]
    if not found:
        command = shlex.join(["curl", "-L", "--create-dirs", "-o", str(places[0]), file.url])
        lines.append(f"  to get it: {command}")
    return "\n".join(lines)


def _state(place: Path, file: WeightsFile) -> str:
    if not place.is_file():
        return "not there"
    with open(place, "rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    if digest.hexdigest().startswith(file.sha256_begins):
        return "found, its SHA-256 agrees"
    return f"found, but its SHA-256 is {digest.hexdigest()}: cut short or another file; get it again"
