"""Volumes on the grid of a scan, written so that every reader puts them exactly where it puts the scan.

SimpleITK rewrites a NIfTI file's affines, which then differ from the scan's in the seventh digit, and an NRRD file's
axes in the sixteenth. Where the scan is of the same format, what its header says of its place is copied byte by byte.
"""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DataError
from ..saving.whole_files import writing, written_whole
from .medical_packages import simpleitk
from .nifti import header_of
from .preprocessing import FloatArray
from .stored_volume import Grid

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""What a volume's name may end in; the ending chooses the format."""
_LEVEL = 3
"""Of the compression: generated values are hardly smaller at a higher one, which takes three times as long."""
_PLACES_OF_NRRD = (b"space", b"space directions", b"space origin")
_HEADER_BYTES = 2048
_DESCRIPTION = b"synthetic, made by roi-progressive"


def ending_of(path: Path) -> str | None:
    """The ending of a volume's name that chooses its format; ``None`` where it has none of ``ENDINGS``."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)


def check_ending(argument: str, path: Path) -> None:
    """Check that a name chooses a format.

    Raises:
        DataError: It does not.
    """
    if ending_of(path) is None:
        raise DataError(f"`{argument}` must end in {', '.join(ENDINGS)}, which chooses its format; got {path.name!r}")


def is_ours(path: Path) -> bool:
    """Whether a file says in its header that :func:`write_volume` wrote it."""
    try:
        with open(path, "rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            start = gzip.GzipFile(fileobj=file).read(_HEADER_BYTES) if is_packed else file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return _DESCRIPTION in start


def write_volume(path: Path, array: FloatArray, grid: Grid, scan: Path) -> None:
    """Write a volume in the format that its name's ending chooses, as 32-bit floats.

    Args:
        path: The file; an older one stays whole until it is replaced.
        array: ``(slices, rows, columns)``, on the grid of ``scan``.
        grid: That grid.
        scan: The file or folder whose grid it is.

    Raises:
        DataError: The ending chooses no format, or the file cannot be written.
    """
    check_ending("out", path)
    ending = ending_of(path)
    with writing(path), written_whole(path) as (aside,):
        if ending in (".nii", ".nii.gz"):
            with _stream(aside, packed=ending == ".nii.gz") as file:
                order = _write_nifti_header(file, grid, array.shape, scan)
                _write_slices(file, array, order)
        elif ending == ".nrrd":
            with open(aside, "wb") as plain:
                plain.write(_nrrd_header(grid, array.shape, scan))
                with gzip.GzipFile("", "wb", _LEVEL, plain, mtime=0) as packed:
                    _write_slices(packed, array, "<")
        else:
            _write_metaimage(aside, array, grid)


@contextmanager
def _stream(path: Path, packed: bool) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with open(path, "wb") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as stream:
            yield stream


def _write_slices(file: Any, array: FloatArray, order: str) -> None:
    """One slice at a time: nothing is kept twice."""
    for plane in array:
        file.write(np.ascontiguousarray(plane, dtype=f"{order}f4").tobytes())


# -- NIfTI -------------------------------------------------------------------------------------------------------------


def _write_nifti_header(file: Any, grid: Grid, shape: tuple[int, ...], scan: Path) -> str:
    """The header of the scan where it is a NIfTI file, else one that SimpleITK makes for the grid; its byte order."""
    found = header_of(scan)
    version, order, header = _made_header(grid) if found is None else found
    head = bytearray(header)
    lengths = (3, *shape[::-1], 1, 1, 1, 1)

    def put(at: int, form: str, *values: Any) -> None:
        struct.pack_into(order + form, head, at, *values)

    if version == 1:
        put(40, "8h", *lengths)
        put(70, "2h", 16, 32)  # 32-bit floats
        put(108, "3f", 352, 1, 0)  # where voxels begin, slope, intercept
        put(124, "4f", 0, 0, 0, 0)  # the range to show, and times, are the scan's
        put(140, "2i", 0, 0)
        head[148:252] = _DESCRIPTION.ljust(80, b"\0") + bytes(24)
        head[328:344] = bytes(16)  # the name of what the scan shows
        head[344:348] = b"n+1\0"
    else:
        put(12, "2h", 16, 32)
        put(16, "8q", *lengths)
        put(168, "q", 544)
        put(176, "2d", 1, 0)
        put(192, "4d", 0, 0, 0, 0)
        head[240:344] = _DESCRIPTION.ljust(80, b"\0") + bytes(24)
        head[508:524] = bytes(16)
        head[4:8] = b"n+2\0"
    file.write(bytes(head) + bytes(4))  # no extensions
    return order


def _made_header(grid: Grid) -> tuple[int, str, bytes]:
    """A header that SimpleITK writes for the grid, of one voxel: where voxels lie does not depend on how many."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voxel.nii")
        simpleitk().WriteImage(grid.image(np.zeros((1, 1, 1), np.float32)), str(path))
        found = header_of(path)
    assert found is not None
    return found


# -- NRRD --------------------------------------------------------------------------------------------------------------


def _nrrd_header(grid: Grid, shape: tuple[int, ...], scan: Path) -> bytes:
    place = _nrrd_place(scan)
    if place is None:
        steps = (np.asarray(grid.direction) * np.asarray(grid.spacing_mm)).T
        place = [
            b"space: left-posterior-superior",
            f"space directions: {' '.join(map(_vector, steps))}".encode(),
            f"space origin: {_vector(grid.origin_mm)}".encode(),
        ]
    lines = [
        b"NRRD0004",
        b"# " + _DESCRIPTION,
        b"type: float",
        b"dimension: 3",
        *place,
        f"sizes: {' '.join(map(str, shape[::-1]))}".encode(),
        b"kinds: domain domain domain",
        b"endian: little",
        b"encoding: gzip",
    ]
    return b"\n".join(lines) + b"\n\n"


def _vector(numbers: Any) -> str:
    return f"({','.join(repr(float(number)) for number in numbers)})"


def _nrrd_place(scan: Path) -> list[bytes] | None:
    """The lines of an NRRD file's header that say where its voxels lie, as they stand there."""
    if scan.suffix.lower() not in (".nrrd", ".nhdr"):
        return None
    with open(scan, "rb") as file:
        lines = file.read(1 << 16).replace(b"\r\n", b"\n").partition(b"\n\n")[0].split(b"\n")
    found = {line.partition(b":")[0].strip().lower(): line for line in lines if b":" in line and line[:1] != b"#"}
    return [found[name] for name in _PLACES_OF_NRRD] if all(name in found for name in _PLACES_OF_NRRD) else None


# -- MetaImage ---------------------------------------------------------------------------------------------------------


def _write_metaimage(path: Path, array: FloatArray, grid: Grid) -> None:
    """The number of packed bytes stands before them, and is known after them: its place is kept free."""
    width = 20
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {' ' * width}",
        f"TransformMatrix = {_numbers(np.asarray(grid.direction).T.ravel())}",
        f"Offset = {_numbers(grid.origin_mm)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(grid.spacing_mm)}",
        f"DimSize = {' '.join(map(str, array.shape[::-1]))}",
        f"Comment = {_DESCRIPTION.decode()}",
        "ElementType = MET_FLOAT",
        "ElementDataFile = LOCAL",
    ]
    header = ("\n".join(lines) + "\n").encode()
    packer = zlib.compressobj(_LEVEL)
    with open(path, "wb") as file:
        file.write(header)
        for plane in array:
            file.write(packer.compress(np.ascontiguousarray(plane, dtype="<f4").tobytes()))
        file.write(packer.flush())
        size = file.tell() - len(header)
        file.seek(header.index(b"CompressedDataSize = ") + len(b"CompressedDataSize = "))
        file.write(str(size).ljust(width).encode())


def _numbers(numbers: Any) -> str:
    return " ".join(repr(float(number)) for number in numbers)
