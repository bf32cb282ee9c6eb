"""NIfTI files: their voxels, and which of their two affines says where these lie.

The header is read here and the voxels too, since SimpleITK reads NaN as 0 (which is water in a CT), fills up a file cut
short with zeros, and adds an intercept that a slope of 0 switches off. Where voxels lie, readers differ: nibabel takes
the sform where its code is above 0, SimpleITK weighs both forms. A file on which they disagree is refused.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .medical_packages import simpleitk
from .stored_volume import Grid, Points, StoredVolume

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {1: "bits", 32: "complex numbers", 1792: "complex numbers", 2048: "complex numbers",
                128: "colours", 2304: "colours", 1536: "floats of 128 bits"}  # fmt: skip
_UNITS = {1: "metres", 3: "micrometres"}
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's x runs to the right and its y to the front."""
_TOLERANCE = 0.25
"""How far two affines may put a voxel apart, in its shortest side, to be the same: headers round."""


@dataclass(frozen=True)
class _Header:
    """What a NIfTI header says; affines in NIfTI's own axes, ``None`` where their code is 0."""

    version: int
    order: str
    lengths: tuple[int, ...]
    kind: int
    bits: int
    start: int
    slope: float
    intercept: float
    pixdim: tuple[float, ...]
    units: int
    qform: Points | None
    sform: Points | None


def is_nifti(path: Path) -> bool:
    """Whether a file is a NIfTI file or one of a pair, by its name or its first bytes."""
    if path.name.lower().endswith((".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")):
        return True
    try:
        with open(path, "rb") as file:
            return _version(file.read(348)) is not None
    except OSError:
        return False


def read_nifti(what: str, path: Path) -> StoredVolume:
    """Read a NIfTI-1 or NIfTI-2 file, or a pair of ``.hdr`` and ``.img`` named by either.

    Args:
        what: Column of the list, for messages.
        path: The file, which may be compressed.

    Raises:
        DataError: It is damaged, cut short, no single three-dimensional volume of numbers, or not finite; nothing says
            where its voxels lie, or its two affines say different things; its axes are not at right angles.
    """
    content, image_file = _content(what, path)
    header = _header(what, path, content)
    if header.lengths[3:].count(1) != len(header.lengths[3:]) or len(header.lengths) < 3:
        size = " x ".join(map(str, header.lengths))
        raise DataError(
            f"`{what}` must be three-dimensional with one value a voxel; {path.name} is {size}; extract one volume"
        )
    if header.kind not in _TYPES:
        kind = _OTHER_TYPES.get(header.kind, f"an unknown kind ({header.kind})")
        raise DataError(f"`{what}` must hold one number a voxel; {path.name} holds {kind}; convert it")
    grid, notes = _placed(what, path, header)
    return StoredVolume(_voxels(what, path, header, image_file or content), grid, notes=notes)


def header_of(path: Path) -> tuple[int, str, bytes] | None:
    """The header of a NIfTI file as it stands in it: its version, its byte order and its bytes.

    Returns:
        ``None`` where the path is no NIfTI file.

    Raises:
        DataError: It looks like one and cannot be read.
    """
    if path.is_dir() or not is_nifti(path):
        return None
    content = _content("scan", path)[0]
    version = _version(content)
    if version is None or version[0] == 0:
        return None
    return version[0], version[1], bytes(content[: 348 if version[0] == 1 else 540])


def check_finite(what: str, name: str, array: Any) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        DataError: One is.
    """
    broken = 0 if array.dtype.kind in "iub" else int(array.size - np.isfinite(array).sum())
    if broken:
        raise DataError(f"`{what}` must be finite; {name} has {broken} voxels that are NaN or infinite; repair it")


# -- the file ----------------------------------------------------------------------------------------------------------


def _content(what: str, path: Path) -> tuple[bytes, bytes | None]:
    """The bytes of a file, unpacked; of a pair those of the header and those of the voxels."""
    name = path.name.lower()
    for mine, its in ((".hdr", ".img"), (".img", ".hdr")):
        if name.endswith((mine, f"{mine}.gz")):
            stem, ending = path.name[: name.rindex(mine)], path.name[name.rindex(mine) :]
            others = [stem + its + tail for tail in ((".gz", "") if ending.endswith(".gz") else ("", ".gz"))]
            other = next((path.with_name(file) for file in others if path.with_name(file).exists()), None)
            if other is None:
                if path.exists():
                    raise DataError(
                        f"`{what}` cannot be read: {path.name} is one of a pair, and {others[0]} is not beside it; "
                        f"copy both"
                    )
                break
            pair = _unpacked(what, path), _unpacked(what, other)
            return pair if mine == ".hdr" else (pair[1], pair[0])
    return _unpacked(what, path), None


def _unpacked(what: str, path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"\x1f\x8b":
                file.seek(0)
                return file.read()
        with gzip.open(path, "rb") as packed:
            return packed.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"`{what}` cannot be read: {path.name} is cut short or damaged; copy it again") from error
    except OSError as error:
        raise DataError(f"`{what}` cannot be opened: {path.name}: {error.strerror}") from error


def _version(header: bytes) -> tuple[int, str] | None:
    """1 or 2 and the byte order; 0 for an Analyze header; ``None`` where it is neither."""
    for order in "<>":
        if len(header) >= 348 and header[:4] == struct.pack(f"{order}i", 348):
            return (1 if header[344:348] in (b"n+1\0", b"ni1\0") else 0), order
        if len(header) >= 12 and header[:4] == struct.pack(f"{order}i", 540) and header[4:7] in (b"n+2", b"ni2"):
            return 2, order
    return None


def _header(what: str, path: Path, content: bytes) -> _Header:
    version = _version(content)
    if version is None or (version[0] == 2 and len(content) < 540):
        raise DataError(f"`{what}` cannot be read: {path.name} is damaged or no NIfTI or other volume format")
    number, order = version
    if number == 0:
        raise DataError(
            f"`{what}` cannot be placed: {path.name} is an Analyze file, which does not tell left from right; convert "
            f"it to NIfTI with the tool that wrote it"
        )

    def read(kind: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + kind, content, at)

    if number == 1:
        lengths, (kind, bits), pixdim = read("8h", 40), read("2h", 70), read("8f", 76)
        (start, slope, intercept), (units,) = read("3f", 108), read("B", 123)
        codes, quaternion, rows = read("2h", 252), read("6f", 256), read("12f", 280)
    else:
        (kind, bits), lengths, pixdim = read("2h", 12), read("8q", 16), read("8d", 104)
        (start,), (slope, intercept), (units,) = read("q", 168), read("2d", 176), read("i", 500)
        codes, quaternion, rows = read("2i", 344), read("6d", 352), read("12d", 400)
    single = content[4:7] == b"n+2" if number == 2 else content[344:347] == b"n+1"
    smallest = {1: 352, 2: 544}[number] if single else 0
    if not 1 <= lengths[0] <= 7 or min(lengths[1 : lengths[0] + 1]) < 1 or not smallest <= start < 1e12:
        raise DataError(
            f"`{what}` cannot be read: the header of {path.name} is damaged: lengths {', '.join(map(str, lengths))}, "
            f"voxels from byte {start:g}; copy it again"
        )
    if kind in _TYPES and bits != 8 * np.dtype(_TYPES[kind]).itemsize:
        raise DataError(
            f"`{what}` cannot be read: the header of {path.name} is damaged: values of type {kind} do not have {bits} "
            f"bits; copy it again"
        )
    qform = _of_quaternion(quaternion, pixdim) if codes[0] > 0 else None
    sform = np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]]) if codes[1] > 0 else None
    count = int(lengths[0])
    return _Header(
        number, order, tuple(map(int, lengths[1 : count + 1])), kind, bits, int(start), slope, intercept,
        pixdim[1:4], units & 7, qform, sform,
    )  # fmt: skip


def _of_quaternion(numbers: tuple[float, ...], pixdim: tuple[float, ...]) -> Points:
    """The qform's affine (NIfTI's method 2)."""
    b, c, d = numbers[:3]
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    steps = np.array(pixdim[1:4]) * [1, 1, -1 if pixdim[0] < 0 else 1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * steps, numbers[3:6]
    return affine


def _voxels(what: str, path: Path, header: _Header, content: bytes) -> npt.NDArray[Any]:
    kind = np.dtype(header.order + _TYPES[header.kind])
    shape = header.lengths[2::-1]
    wanted = int(np.prod(shape)) * kind.itemsize
    if len(content) < header.start + wanted:
        raise DataError(
            f"`{what}` cannot be read: {path.name} is cut short, it has {max(0, len(content) - header.start)} of "
            f"{wanted} bytes of voxels; copy it again"
        )
    stored = np.frombuffer(content, kind, wanted // kind.itemsize, header.start).reshape(shape)
    check_finite(what, path.name, stored)
    slope, intercept = header.slope, header.intercept
    if not np.isfinite(slope) or slope == 0 or (slope, intercept) == (1.0, 0.0):  # as the standard and nibabel have it
        return stored.astype(kind.newbyteorder("="), copy=False)
    if not np.isfinite(intercept):
        raise DataError(
            f"`{what}` cannot be read: the header of {path.name} is damaged: scl_inter is {intercept}; repair it"
        )
    array = np.empty(shape, dtype=np.float32)
    for index, plane in enumerate(stored):
        array[index] = plane.astype(np.float64) * slope + intercept
    return array


# -- where the voxels lie ----------------------------------------------------------------------------------------------


def _placed(what: str, path: Path, header: _Header) -> tuple[Grid, tuple[str, ...]]:
    name, notes = path.name, []
    if header.units in _UNITS:
        raise DataError(
            f"`{what}` must be in millimetres; {name} says {_UNITS[header.units]}, which some readers heed and others "
            f"do not; set its xyzt_units, and its affines to them"
        )
    for form, affine in (("qform", header.qform), ("sform", header.sform)):
        if affine is not None:
            _check_axes(what, name, form, affine, header.pixdim)
    if header.qform is None and header.sform is None:
        raise DataError(
            f"`{what}` cannot be placed: {name} has qform and sform codes of 0, so that its place and its left are "
            f"unknown, and each reader makes up others; set its sform from the scan it belongs to"
        )
    chosen = header.qform if header.sform is None else header.sform
    assert chosen is not None
    apart_mm = 0.0
    if header.qform is not None and header.sform is not None:
        apart_mm = _apart_mm(header.qform, header.sform, header.lengths)
        if apart_mm > _tolerance_mm(header.qform) and _lost_its_spacing(header.qform, header.sform):
            notes.append(
                f"the sform of {name} has voxels of 1 mm beside a qform of {_sizes(header.qform)} mm, which was taken"
            )
            chosen, apart_mm = header.qform, 0.0
    grid = _grid(chosen)
    if header.version == 1:
        by_itk, error = _grid_of_itk(path)
        differ_mm = np.inf if by_itk is None else _apart_mm(_affine(by_itk), _affine(grid), header.lengths)
        if by_itk is None or differ_mm > _tolerance_mm(chosen):
            raise DataError(_disagreement(what, name, header, apart_mm, differ_mm, error))
        grid = by_itk  # the same but for rounding, and what SimpleITK wrote in other formats from the same file
    if apart_mm > _tolerance_mm(chosen):
        if header.version == 2:
            raise DataError(_disagreement(what, name, header, apart_mm, apart_mm, ""))
        notes.append(
            f"qform and sform of {name} put voxels up to {apart_mm:.1f} mm apart; the sform was taken, as nibabel and "
            f"SimpleITK do"
        )
    return grid, tuple(notes)


def _check_axes(what: str, name: str, form: str, affine: Points, pixdim: tuple[float, ...]) -> None:
    if form == "qform" and not all(np.isfinite(step) and step > 0 for step in pixdim):
        raise DataError(
            f"`{what}` cannot be placed: the voxel size of {name} must be above 0 along every axis; pixdim is "
            f"{' x '.join(f'{step:g}' for step in pixdim)}; repair its header"
        )
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or steps.min() <= 0:
        raise DataError(f"`{what}` cannot be placed: the {form} of {name} is no affine; repair its header")
    unit = affine[:3, :3] / steps
    if np.abs(unit.T @ unit - np.eye(3)).max() > 1e-3:
        raise DataError(
            f"`{what}` cannot be read: {name} has axes that are not at right angles (its {form} is sheared); resample "
            f"it first"
        )


def _lost_its_spacing(qform: Points, sform: Points) -> bool:
    """Whether an sform is the qform but for voxels of 1 mm, as some converters leave it."""
    turn = qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0)
    return bool(np.abs(sform[:3, :3] - turn).max() < 1e-3 and np.abs(sform[:3, 3] - qform[:3, 3]).max() < 0.01)


def _disagreement(
    what: str, name: str, header: _Header, forms_apart_mm: float, readers_apart_mm: float, error: str
) -> str:
    if forms_apart_mm > 0 and header.qform is not None and header.sform is not None:
        return (
            f"`{what}` cannot be placed: qform and sform of {name} put voxels up to {forms_apart_mm:.1f} mm apart, and "
            f"readers take one or the other; keep the right one and set the other's code to 0"
        )
    if not all(step > 0 for step in header.pixdim):
        return (
            f"`{what}` cannot be placed: pixdim of {name} is {' x '.join(f'{step:g}' for step in header.pixdim)}, "
            f"beside an sform that has sizes; repair its header"
        )
    if error:
        return f"`{what}` cannot be read: {name} has an affine that SimpleITK does not take; repair its header"
    return (
        f"`{what}` cannot be placed: readers put voxels of {name} up to {readers_apart_mm:.1f} mm apart; its pixdim "
        f"({' x '.join(f'{step:g}' for step in header.pixdim)}) and affine disagree; repair its header"
    )


def _sizes(affine: Points) -> str:
    return " x ".join(f"{step:g}" for step in np.linalg.norm(affine[:3, :3], axis=0).round(4))


def _grid(affine: Points) -> Grid:
    placed = _TO_LPS @ affine
    steps = np.linalg.norm(placed[:3, :3], axis=0)
    x, y, z = placed[:3, 3].tolist()
    columns_mm, rows_mm, slices_mm = steps.tolist()
    # The nearest matrix whose axes are exactly at right angles: those of a header are so but for rounding.
    left, _, right = np.linalg.svd(placed[:3, :3] / steps)
    return Grid((x, y, z), (columns_mm, rows_mm, slices_mm), left @ right)


def _affine(grid: Grid) -> Points:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.direction * np.array(grid.spacing_mm), grid.origin_mm
    return affine


def _grid_of_itk(path: Path) -> tuple[Grid | None, str]:
    """Where SimpleITK puts the voxels, or what it says against the file."""
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        return None, str(error)
    (x, y, z), (columns, rows, slices) = reader.GetOrigin()[:3], reader.GetSpacing()[:3]
    count = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(count, count)[:3, :3]
    return Grid((x, y, z), (columns, rows, slices), direction), ""


def _apart_mm(one: Points, other: Points, lengths: tuple[int, ...]) -> float:
    """How far two affines put the same voxel apart, at most."""
    ends = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [
        *(length - 1 for length in lengths[:3]),
        1,
    ]
    return float(np.linalg.norm((ends @ (one - other).T)[:, :3], axis=1).max())


def _tolerance_mm(affine: Points) -> float:
    return _TOLERANCE * float(np.linalg.norm(affine[:3, :3], axis=0).min())
