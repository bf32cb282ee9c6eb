"""Files of tensors: our checkpoint beside the host's, networks, averages and optimizers, all written and read alike.

Each is written aside, synced and renamed, and read with ``weights_only=True``, so that nothing in it is executed. It is
an ordinary file of ``torch.save``, which a vanilla ``torch.load`` takes. torch stores it as a zip archive, with a
checksum of every entry that torch itself does not look at; a checksum of the whole file stands behind it as the
archive's comment. Files of older versions, without the comment, are held against the checksums of their entries.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import CheckpointError, UnreadableError, one_line, parsed, system_reason
from .whole_files import written_whole

FORMAT = 1
_DOS_FOLDER = 0x10
_MARK = b"sha256:"
_SEAL_BYTES = len(_MARK) + 64
_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22  # of the end record, whose last two are the length of the comment behind it


# -- our checkpoint ----------------------------------------------------------------------------------------------------


def checkpoint_name(epoch: int | str) -> str:
    """The name of our checkpoint of an epoch, as it lies beside the host's own files.

    Args:
        epoch: In the host's own count, or its own word, such as ``latest``.

    Example:
        >>> from roi_progressive import checkpoint_name
        >>> checkpoint_name(7), checkpoint_name("latest")
        ('7_roi_progressive.pth', 'latest_roi_progressive.pth')
    """
    return f"{epoch}_roi_progressive.pth"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; an older file stays whole until the new one is complete.

    Args:
        path: The file.
        state: Tensors, numbers, strings and containers of them.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        _write(path, {**state, "format": FORMAT})
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"`path` must be writable; {str(path)!r} is not: {system_reason(error)}; an older file is untouched; "
            f"free the space or give another path"
        ) from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``: nothing in it is executed ("Loading is safe").

    Raises:
        CheckpointError: The file is missing, damaged, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(
            f"`path` must name one of our checkpoints; there is no {str(path)!r}; check the epoch, "
            f'or set resume = "fresh" to start the regions anew'
        )
    state = _read(path, "path", device)
    version = state.get("format") if isinstance(state, dict) else None
    if not isinstance(version, int) or version != FORMAT:
        raise CheckpointError(
            f"`path` must name a checkpoint of format {FORMAT}; {str(path)!r} is of format "
            f"{version if isinstance(version, int) else 'unknown'}; "
            f"use the version of roi-progressive that wrote it"
        )
    return dict(state)


# -- networks ----------------------------------------------------------------------------------------------------------


def write_network(path: Path, network: nn.Module) -> None:
    """Write a network's state, as a vanilla ``torch.load`` reads it; an older file stays until the new one is complete.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        _write(path, {key: value.detach().cpu() for key, value in network.state_dict().items()})
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"`checkpoints_dir` must be a folder that can be written; {str(path)!r} cannot: {system_reason(error)}; "
            f"an older file is untouched; free the space or choose another folder"
        ) from error


def read_network(path: Path, network: nn.Module, device: torch.device) -> Mapping[str, Tensor]:
    """The state that ``write_network`` wrote, for a network of the same shape.

    Raises:
        CheckpointError: The file is missing, damaged, belongs to a network of another shape, or holds a number that
            is not finite.
    """
    if not path.is_file():
        raise CheckpointError(
            f"`epoch` must name a saved checkpoint; there is no {str(path)!r}; check `name` and `epoch`"
        )
    state = _read(path, "epoch", device)
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: getattr(value, "shape", None) for key, value in state.items()} if isinstance(state, dict) else {}
    if found != expected:
        differing = sorted(map(str, {*expected.items()} ^ {*found.items()}))
        raise CheckpointError(
            f"`epoch` must name a checkpoint of the same networks; {str(path)!r} differs in {len(differing)} entries, "
            f"first {differing[0]}; use the options it was trained with"
        )
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"`epoch` must name networks of finite numbers; {str(path)!r} has infinite ones or NaN in {key}: the "
                f"training diverged; take an earlier epoch, or train anew with a lower learning rate"
            )
    return dict(state)


# -- files -------------------------------------------------------------------------------------------------------------


def _write(path: Path, content: Any) -> None:
    with written_whole(path) as (aside,):
        with open(aside, "wb") as file:
            torch.save(content, file)
        _seal(aside)


def _seal(path: Path) -> None:
    """Put the checksum of a file behind it, as the comment of the zip archive that it is."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.write(_seal_of(file, file.tell()))


def _read(path: Path, argument: str, device: torch.device | str) -> Any:
    """What a file of tensors holds.

    Args:
        path: The file.
        argument: What the user gave, for the error's line.
        device: Where the tensors go.

    Raises:
        CheckpointError: The file is damaged, or holds what is no tensor and no plain value.
    """
    try:
        return read_tensors(path, device)
    except OtherObjectsError as error:
        raise CheckpointError(
            f"`{argument}` must name a checkpoint of tensors and plain values; {str(path)!r} is damaged or holds other "
            f"objects, which are never loaded; take another copy of it"
        ) from error
    except (OSError, UnreadableError) as error:
        reason = error.line if isinstance(error, UnreadableError) else system_reason(error)
        raise CheckpointError(
            f"`{argument}` must name a readable checkpoint; {str(path)!r} is damaged: {reason}; take another copy of it"
        ) from error


class OtherObjectsError(UnreadableError):
    """A file holds what is no tensor and no plain value; its text never tells how to run it all the same."""


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """What a file of tensors holds, ours or anybody's; nothing in it is executed.

    Raises:
        OSError: The system does not give the file.
        OtherObjectsError: It holds other objects.
        UnreadableError: It is damaged, or has tensors that are no arrays of numbers.
    """
    _check_bytes(path)
    try:
        content = parsed(torch.load, path, map_location=device, weights_only=True)
    except UnreadableError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError) or "weights_only" in str(error):
            raise OtherObjectsError("it holds other objects than tensors and plain values") from error
        raise
    _require_plain_tensors(content)
    return content


def _require_plain_tensors(content: Any) -> None:
    """Sparse, quantized and meta tensors load, and fail in whichever operation comes first.

    Raises:
        UnreadableError: There is one.
    """
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            kind = "meta" if value.is_meta else "quantized" if value.is_quantized else str(value.layout)
            if kind != str(torch.strided):
                raise UnreadableError(f"it holds a {kind.removeprefix('torch.')} tensor")
        elif isinstance(value, (Mapping, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, Mapping) else value


def _check_bytes(path: Path) -> None:
    """Compare the file with its checksum: torch would read flipped bits of a weight as if they were the weight.

    Raises:
        OSError: The system does not give the file.
        UnreadableError: They differ.
    """
    with open(path, "rb") as file:
        if file.read(len(_ZIP_START)) != _ZIP_START:
            return  # torch says what else it may be
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, n_bytes - _ZIP_END_BYTES))
        end = file.read()
        sealed = not (end.startswith(_ZIP_END) and end.endswith(b"\0\0"))
        if sealed and _seal_of(file, n_bytes - _SEAL_BYTES) != file.read():
            raise UnreadableError("its checksum does not match")
    if not sealed:
        parsed(_check_entries, path)


def _seal_of(file: BinaryIO, n_bytes: int) -> bytes:
    """The seal that belongs behind the first bytes of a file; afterwards it stands there."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(max(0, min(1 << 20, n_bytes - file.tell()))):
        digest.update(block)
    return _MARK + digest.hexdigest().encode()


def _check_entries(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        # Checksums cover contents only. torch stores without compression and makes no folders; where the table of
        # contents says otherwise, it would take whatever the memory holds for the weights.
        entries = archive.infolist()
        torn = [e.filename for e in entries if e.compress_size != e.file_size or e.external_attr & _DOS_FOLDER]
        broken = torn[0] if torn else archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(f"bad checksum of {broken}")


# -- whether a state fits ----------------------------------------------------------------------------------------------


@contextmanager
def fitting() -> Iterator[None]:
    """What a state of other keys, types or shapes raises in the block becomes a ``CheckpointError`` of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"[:200]
        raise CheckpointError(
            f"`state` must come from `state_dict`; it does not fit: {reason}; take another copy of the file, or set "
            f'resume = "fresh"'
        ) from error


def check_config(saved: Config, current: Config) -> None:
    """Refuse a checkpoint of other regions or another adversarial loss; anything else may change in a run.

    Raises:
        CheckpointError: It was trained for something else.
    """
    for name in ("regions", "adversarial"):
        if getattr(saved, name) != getattr(current, name):
            raise CheckpointError(
                f"`config` must be the one the checkpoint was trained with; `{name}` differs: saved "
                f'{getattr(saved, name)!r}; train with the saved configuration or set resume = "fresh"'
            )
