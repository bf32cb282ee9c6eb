"""What decides the bytes that ``prepare`` writes, short enough to keep beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from .options import PrepareOptions


def fingerprint(
    manifest_csv: str | Path, files: Iterable[Path], options: PrepareOptions, versions: Mapping[str, str]
) -> dict[str, str]:
    """The list's text, the options, size and time of every file, and the versions used, each as a digest.

    Args:
        manifest_csv: The list.
        files: The files and folders it names; of a folder, the files in it.
        options: How.
        versions: Of the packages that compute.
    """
    settings = asdict(options) | {"mr_steps": sorted(options.mr_steps)}
    return {
        "list": _digest(Path(manifest_csv).read_text(encoding="utf-8-sig")),
        "options": _digest(json.dumps(settings, sort_keys=True)),
        "files": _digest("\n".join(line for file in files for line in _stamps(file.absolute()))),
        "versions": _digest(json.dumps(versions, sort_keys=True)),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _stamps(path: Path) -> Iterator[str]:
    try:
        status = path.stat()
    except OSError:
        yield f"{path} is not there"
        return
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}"
    else:
        yield f"{path} {status.st_size} {status.st_mtime_ns}"
