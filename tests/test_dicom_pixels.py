"""The values of DICOM pixels against pydicom's own functions, and the fields by which readers go astray."""

from __future__ import annotations

import numpy as np
import pytest

from roi_progressive.data.dicom_pixels import is_cut_short, padding_of, stored_values, transformed
from roi_progressive.data.dicom_series import read_series
from roi_progressive.errors import DataError

pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "roi-progressive[medical]"')
sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans")

STORED = np.random.default_rng(0).integers(0, 4000, (32, 36))


def content(stored=STORED, signed=False, **elements):
    found = scans.header("1.2.840.10008.5.1.4.1.1.2", "CT")
    scans.set_pixels(found, stored, signed)
    for key, value in elements.items():
        setattr(found, key, value)
    return found


def saved(tmp_path, made, name="x.dcm"):
    made.save_as(tmp_path / name, enforce_file_format=True)
    return pydicom.dcmread(tmp_path / name, defer_size=64)


def values(made):
    return transformed(stored_values(made, "x"), made, "x")[0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("slope", "intercept"), [("1", "-1024"), ("0.37", "12.5"), ("2", "0"), ("-1", "5")])
def test_values_are_those_of_pydicom(tmp_path, signed, slope, intercept):
    stored = STORED - 2000 if signed else STORED
    made = saved(tmp_path, content(stored, signed, RescaleSlope=slope, RescaleIntercept=intercept))
    assert values(made) == pytest.approx(pydicom.pixels.apply_modality_lut(made.pixel_array, made))


def test_without_a_transformation_the_numbers_are_the_values_whatever_they_look_like(tmp_path):
    made = saved(tmp_path, content(PhotometricInterpretation="MONOCHROME1"))
    assert (values(made) == STORED).all()


def test_a_modality_table_is_looked_up(tmp_path):
    table = np.arange(4096)[::-1] * 3
    lut = scans.item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="HU")
    lut.add_new((0x0028, 0x3006), "US", (table % 65536).tolist())
    made = saved(tmp_path, content(ModalityLUTSequence=[lut]))
    assert (values(made) == table[STORED]).all()
    made.RescaleSlope, made.RescaleIntercept = "1", "0"
    with pytest.raises(DataError, match=r"one transformation.*rescale slope and a table"):
        values(made)


@pytest.mark.parametrize("slope", ["0", "nan"])
def test_a_slope_of_nothing_is_refused(slope):
    made = content()
    made.RescaleIntercept = "0"
    made._dict[pydicom.tag.Tag("RescaleSlope")] = pydicom.DataElement("RescaleSlope", "FD", float(slope))
    with pytest.raises(DataError, match="slope other than 0"):
        values(made)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless", "DeflatedExplicitVRLittleEndian"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
def test_compressed_pixels_are_what_was_compressed(tmp_path, syntax, signed, frames):
    stored = np.stack([STORED - (2000 if signed else 0) + frame for frame in range(frames)])
    made = content(stored if frames > 1 else stored[0], signed, PhotometricInterpretation="MONOCHROME1")
    if frames > 1:
        made.NumberOfFrames = frames
    made.RescaleSlope, made.RescaleIntercept = "2", "-1000"  # a decoder must not apply them
    uid = getattr(pydicom.uid, syntax)
    if syntax.startswith("Deflated"):
        made.file_meta.TransferSyntaxUID = uid
    else:
        try:
            made.compress(uid, generate_instance_uid=False)
        except Exception as error:
            pytest.skip(f"nothing here compresses {syntax}: {error}")
    made = saved(tmp_path, made)
    assert (stored_values(made, "x") == stored).all()


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_series_that_itk_compressed_is_read(tmp_path, kind):
    plain = scans.write_series(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for file in plain:
        image = sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkInt16)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(kind)
        writer.SetFileName(str(tmp_path / "packed" / file.name))
        writer.Execute(image)
        packed, made = pydicom.dcmread(writer.GetFileName()), pydicom.dcmread(file)
        assert packed.file_meta.TransferSyntaxUID.is_compressed
        for key in ("BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelData"):
            made[key] = packed[key]
        made.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        made.save_as(writer.GetFileName())
    packed, read = read_series(tmp_path / "packed", "CT"), read_series(tmp_path / "plain", "CT")
    assert (packed.array == read.array).all()


def test_big_endian_files_and_other_widths_are_read(tmp_path):
    made = content()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    made.PixelData = STORED.astype(">u2").tobytes()
    pydicom.dcmwrite(tmp_path / "big.dcm", made, enforce_file_format=True)
    assert (stored_values(pydicom.dcmread(tmp_path / "big.dcm"), "x")[0] == STORED).all()
    for bits, kind in ((8, "u1"), (32, "<u4")):
        made = content(BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
        made.PixelData = (STORED % 256).astype(kind).tobytes()
        assert (stored_values(made, "x")[0] == STORED % 256).all()


def test_bits_that_are_not_stored_are_no_part_of_a_value():
    """An overlay in the upper bits, a sign that was not extended, and one that was."""
    overlay = content(STORED + 4096 * (STORED % 2), BitsStored=12, HighBit=11)
    overlay.add_new((0x6000, 0x0102), "US", 12)
    assert (stored_values(overlay, "x")[0] == STORED).all()
    signed = STORED - 2000
    for stored in (signed, signed % 4096):
        made = content(stored % 65536, BitsStored=12, HighBit=11)
        made.PixelRepresentation = 1
        assert (stored_values(made, "x")[0] == signed).all()
    shifted = content(STORED * 16, BitsStored=12, HighBit=15)
    assert (stored_values(shifted, "x")[0] == STORED).all()


def test_values_of_more_bits_than_a_file_says_are_refused():
    with pytest.raises(DataError, match="says 12 and has values up to 5000"):
        stored_values(content(np.where(STORED > 3990, 5000, STORED), BitsStored=12, HighBit=11), "x")


PADDED = STORED.copy()
PADDED[:4, :4] = 63536


@pytest.mark.parametrize(("signed", "kind", "value"), [(False, "US", 63536), (True, "SS", -2000), (True, "US", 63536)])
def test_padding_is_found_whatever_sign_its_value_is_written_in(tmp_path, signed, kind, value):
    made = content(PADDED, signed)
    made.PixelData = PADDED.astype("<u2").tobytes()
    made.add_new((0x0028, 0x0120), kind, value)
    assert (padding_of(stored_values(made, "x"), made)[0] == (PADDED == 63536)).all()


def test_a_range_of_padding_is_found_from_either_end():
    for ends in ((3000, 3500), (3500, 3000)):
        made = content(PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
        assert (padding_of(stored_values(made, "x"), made)[0] == ((STORED >= 3000) & (STORED <= 3500))).all()
    assert padding_of(stored_values(content(), "x"), content()) is None


def test_a_file_cut_short_is_known_without_reading_it(tmp_path):
    made = saved(tmp_path, content())
    assert not is_cut_short(made)
    whole = (tmp_path / "x.dcm").read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole[:-100])
    assert is_cut_short(pydicom.dcmread(tmp_path / "short.dcm", defer_size=64))
    del made.PixelData
    assert is_cut_short(made)
