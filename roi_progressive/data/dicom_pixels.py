"""The values that the pixels of a DICOM file stand for: what is stored, and the modality transformation over it.

SimpleITK decodes every transfer syntax, but turns MONOCHROME1 round, leaves a modality table out, and takes the type of
a whole series from its first slice; pydicom decodes compressed pixels only with further packages. So SimpleITK decodes,
and what follows is done here as PS3.3 C.7.6.3 and C.11.1 have it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .medical_packages import pydicom, simpleitk
from .preprocessing import BoolArray, FloatArray

Stored = npt.NDArray[Any]

_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
_LAYOUT = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


def check_grey(content: Any, name: str) -> None:
    """Check that a file shows grey values.

    Raises:
        DataError: It is in colour.
    """
    kind = str(content.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(content.get("SamplesPerPixel", 1)) != 1 or not kind.startswith("MONOCHROME"):
        raise DataError(
            f"`image` must hold grey values; {name} is in colour ({kind}), as maps and screenshots are; name the scan"
        )


def is_cut_short(content: Any) -> bool:
    """Whether a file lacks pixels; of a compressed one, only decoding it tells."""
    if "PixelData" not in content:
        return True
    if is_compressed(content):
        return False
    values = content.Rows * content.Columns * int(content.get("NumberOfFrames", 1)) * content.get("SamplesPerPixel", 1)
    return bool(8 * content_length(content) < values * int(content.BitsAllocated))


def content_length(content: Any) -> int:
    """Bytes of the pixels, known without reading them where pydicom left them in the file."""
    element = content.get_item("PixelData")
    if getattr(element, "value", None) is None and getattr(element, "length", 0xFFFFFFFF) != 0xFFFFFFFF:
        return min(int(element.length), _bytes_left(content.filename, int(element.value_tell)))
    return len(content.PixelData)


def _bytes_left(file: str, at: int) -> int:
    return Path(file).stat().st_size - at


def is_compressed(content: Any) -> bool:
    """Whether the pixels are encapsulated; a file without a meta header cannot say so, and is not."""
    syntax = getattr(content, "file_meta", {}).get("TransferSyntaxUID")
    return bool(syntax is not None and syntax.is_compressed)


def stored_values(content: Any, name: str) -> Stored:
    """The numbers in a file, ``(frames, rows, columns)``, before any transformation.

    Args:
        content: A file of grey pixels, as pydicom read it.
        name: Of the file, for messages.

    Raises:
        DataError: The pixels cannot be decoded, are no whole numbers, or need more bits than the file says.
    """
    bits, high, allocated = (int(content[key].value) for key in ("BitsStored", "HighBit", "BitsAllocated"))
    signed = int(content.PixelRepresentation) == 1
    if "PixelData" not in content or allocated not in (8, 16, 32) or not bits <= high + 1 <= allocated:
        raise DataError(
            f"`image` must have pixels of 8, 16 or 32 bits; {name} has {bits} bits stored up to bit {high} of "
            f"{allocated}; export it again"
        )
    if is_compressed(content):
        return _decompressed(content, name)
    little = getattr(content, "original_encoding", (None, True))[1]
    kind = f"{'>' if little is False else '<'}{'i' if signed else 'u'}{allocated // 8}"
    frames, rows, columns = int(content.get("NumberOfFrames", 1)), int(content.Rows), int(content.Columns)
    whole = np.frombuffer(content.PixelData, kind, frames * rows * columns).reshape(frames, rows, columns)
    return whole if bits == allocated else _used_bits(whole, bits, high, signed, content, name)


def _used_bits(whole: Stored, bits: int, high: int, signed: bool, content: Any, name: str) -> Stored:
    """What the bits that belong to the values say; others may hold the sign or, in old files, an overlay."""
    unsigned = whole.view(whole.dtype.str.replace("i", "u"))
    used = (unsigned >> (high + 1 - bits)) & ((1 << bits) - 1)
    if not signed:
        values: Stored = used
    else:
        sign = 1 << (bits - 1)
        values = (used.astype(np.int64) ^ sign) - sign
    # The other bits may repeat the sign, be zero, or be an overlay's; otherwise they are part of the values.
    others = (whole != values) & (unsigned != used) & ~_is_padding(whole, content)
    if high + 1 == bits and others.any() and not _has_overlay_bits(content):
        raise DataError(
            f"`image` must hold values of as many bits as it says; {name} says {bits} and has values up to "
            f"{whole[others].max()}: readers differ on them; export it again"
        )
    return np.where(_is_padding(whole, content), whole, values) if high + 1 == bits else values


def _has_overlay_bits(content: Any) -> bool:
    return any((group, 0x0102) in content and int(content[group, 0x0102].value or 0) > 0 for group in _OVERLAY_GROUPS)


def _decompressed(content: Any, name: str) -> Stored:
    """Decoded by SimpleITK from a copy that says nothing but how the pixels lie: so no transformation is applied."""
    dicom, sitk = pydicom(), simpleitk()
    frames = int(content.get("NumberOfFrames", 1))
    plain = dicom.Dataset()
    plain.file_meta = dicom.dataset.FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = content.file_meta.TransferSyntaxUID
    # Secondary captures: a reader has no ideas about their values.
    kind = "7" if frames == 1 else "7.2" if int(content.BitsAllocated) == 8 else "7.3"
    plain.SOPClassUID, plain.SOPInstanceUID = f"1.2.840.10008.5.1.4.1.1.{kind}", dicom.uid.generate_uid()
    plain.Modality, plain.PhotometricInterpretation, plain.SamplesPerPixel = "OT", "MONOCHROME2", 1
    for key in _LAYOUT:
        setattr(plain, key, content[key].value)
    if frames > 1:
        plain.NumberOfFrames = frames
    plain.PixelData = content.PixelData
    plain["PixelData"].is_undefined_length = True
    plain["PixelData"].VR = "OB"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.dcm"
        try:
            plain.save_as(file, enforce_file_format=True)
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        except RuntimeError as error:
            syntax = content.file_meta.TransferSyntaxUID.name
            raise DataError(
                f"`image` cannot be read: the pixels of {name} ({syntax}) cannot be decoded; they are damaged, or of "
                f"a rare kind; export it uncompressed"
            ) from error
    values = np.asarray(values).reshape(frames, int(content.Rows), int(content.Columns))
    return values


def _is_padding(stored: Stored, content: Any) -> BoolArray:
    """Pixels of PixelPaddingValue, or from there to PixelPaddingRangeLimit."""
    ends = [_as_stored(content, key) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [end for end in ends if end is not None]
    if ends[0] is None:
        return np.zeros(stored.shape, dtype=bool)
    return np.asarray((stored >= min(known)) & (stored <= max(known)))


def _as_stored(content: Any, key: str) -> int | None:
    """A padding value in the pixels' own sign, whatever the header's: 63536 of signed pixels is -2000."""
    value = content.get(key)
    if value is None or value == "":
        return None
    number, allocated = int(value), int(content.BitsAllocated)
    if int(content.PixelRepresentation) == 1:
        return number - (1 << allocated) if number >= 1 << (allocated - 1) else number
    return number + (1 << allocated) if number < 0 else number


def padding_of(stored: Stored, content: Any) -> BoolArray | None:
    """Where a file says that a pixel holds nothing, the shape of ``stored``; ``None`` where no pixel does."""
    padding = _is_padding(stored, content)
    return padding if padding.any() else None


def transformed(stored: Stored, transformation: Any, name: str) -> FloatArray:
    """The values that stored numbers stand for (PS3.3 C.11.1), any shape: HU of a CT.

    PhotometricInterpretation has no part in it: it says how to show the values.

    Args:
        stored: What ``stored_values`` gave.
        transformation: What holds RescaleSlope and RescaleIntercept, or a ModalityLUTSequence: a file, or an item of a
            frame's functional groups. Without any, the numbers are the values.
        name: Of the file or frame, for messages.

    Raises:
        DataError: It holds both, a slope of 0, or no numbers.
    """
    table = transformation.get("ModalityLUTSequence")
    slope, intercept = (transformation.get(key) for key in ("RescaleSlope", "RescaleIntercept"))
    if table:
        if slope is not None:
            raise DataError(
                f"`image` must have one transformation of its values; {name} has a rescale slope and a table "
                f"(ModalityLUTSequence); export it again"
            )
        return np.asarray(pydicom().pixels.apply_modality_lut(stored, transformation), dtype=np.float32)
    times = 1.0 if slope is None or slope == "" else float(slope)
    plus = 0.0 if intercept is None or intercept == "" else float(intercept)
    if not (np.isfinite(times) and np.isfinite(plus)) or times == 0:
        raise DataError(
            f"`image` must have a rescale slope other than 0; {name} has slope {times:g} and intercept {plus:g}; "
            f"export it again"
        )
    return np.asarray(stored.astype(np.float64) * times + plus, dtype=np.float32)
