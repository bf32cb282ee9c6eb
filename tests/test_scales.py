"""Images on another scale than they are taken for: refused by folder, for one dark image alone says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roi_progressive.errors import DataError
from roi_progressive.evaluation.file_pairs import pairs_from_files
from roi_progressive.evaluation.image_files import read_picture
from roi_progressive.evaluation.table import render_text
from roi_progressive.runs.evaluate import evaluate_folders

RNG = np.random.default_rng(0)
GREY = {part: RNG.integers(0, 256, (5, 24, 24)) for part in ("real", "fake")}
GREY["real"][:, 0, 0], GREY["fake"][:, 0, 0] = 255, 255
STEMS = [f"p{index // 2}_PV_{index:03d}" for index in range(5)]


def folders(tmp_path: Path, save: Any, stems: list[str] = STEMS) -> Path:
    """``real``, ``fake`` and ``masks``; ``save(path, grey, part)`` writes an image of 0 to 255."""
    for part in ("real", "fake", "masks"):
        (tmp_path / part).mkdir()
    for index, stem in enumerate(stems):
        for part, images in GREY.items():
            save(tmp_path / part / stem, images[index].astype(float), part)
        mask = np.zeros((24, 24), np.uint8)
        mask[6:18, 6:18] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{stem}.png")
    return tmp_path


def deep(white: float) -> Any:
    def save(path: Path, grey: Any, part: str) -> None:
        Image.fromarray(np.rint(grey / 255 * white).astype(np.uint16)).save(f"{path}.png")

    return save


def pairs(place: Path, **settings: Any) -> Any:
    return pairs_from_files(place / "real", place / "fake", place / "masks", **settings)


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (10, 1023), (12, 4095), (14, 16383)])
def test_fewer_bits_in_files_of_16_are_refused_until_white_is_given(tmp_path: Path, bits: int, white: int) -> None:
    place = folders(tmp_path, deep(white))
    with pytest.raises(DataError, match=f"`real`.*nothing .* above {white}, .* {bits} bits; give --white {white},"):
        pairs(place)
    for pair, real in zip(pairs(place, white=white), GREY["real"], strict=True):
        assert np.abs(pair.real - real).max() <= 0.5 * 255 / white
    assert len(list(pairs(place, white=65535))) == 5  # whoever says that they are so dark is believed


def test_the_brightest_image_of_a_folder_tells_its_depth(tmp_path: Path) -> None:
    def save(path: Path, grey: Any, part: str) -> None:
        dark = 1.0 if path.name == STEMS[0] else 0.01
        Image.fromarray(np.rint(grey * 257 * dark).astype(np.uint16)).save(f"{path}.png")

    assert len(list(pairs(folders(tmp_path, save)))) == 5


def test_arrays_from_0_to_1_are_refused_as_the_truth_and_noted_as_generated(tmp_path: Path) -> None:
    def from_0(path: Path, grey: Any, part: str) -> None:
        np.save(f"{path}.npy", grey / 255 if part == "fake" else grey / 127.5 - 1)

    place = folders(tmp_path, from_0)
    scores = evaluate_folders([place / "real"], [place / "fake"], [place / "masks"])
    assert any("`fake` must lie in [-1, 1]" in note for note in scores.notes)
    with pytest.raises(DataError, match=r"`real` must lie in \[-1, 1\].*as in a range of \[0, 1\]"):
        pairs_from_files(place / "fake", place / "real", place / "masks")


def test_a_tiff_whose_0_is_white_is_read_as_it_is_shown_or_refused(tmp_path: Path) -> None:
    shown = RNG.integers(0, 256, (8, 9)).astype(np.uint8)
    Image.fromarray(255 - shown).save(tmp_path / "eight.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "eight.tif") as image:
        turned = image.tag_v2[262] == 0
    if turned:
        assert (read_picture(tmp_path / "eight.tif") == np.asarray(Image.open(tmp_path / "eight.tif"))).all()
    (tmp_path / "deep.tif").write_bytes(_white_is_zero_of_16_bits(shown.astype(np.uint16) * 257))
    with pytest.raises(DataError, match=r"deep\.tif must have 0 as black; it is a TIFF whose 0 is white"):
        read_picture(tmp_path / "deep.tif")


def _white_is_zero_of_16_bits(values: Any) -> bytes:
    """A TIFF as TIFF 6.0 describes it, one strip; Pillow writes none of this kind."""
    import struct

    rows, columns = values.shape
    data = values.astype("<u2").tobytes()
    tags = [(256, 4, columns), (257, 4, rows), (258, 3, 16), (259, 3, 1), (262, 3, 0), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, rows), (279, 4, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("stems", "patients"),
    [
        ([f"volume_{n}_034" for n in (12, 13, 14, 15, 16)], [f"volume_{n}" for n in (12, 13, 14, 15, 16)]),
        ([f"volume_7_{n:03d}" for n in range(5)], ["volume_7"] * 5),
        ([f"p{n}_1_034" for n in range(5)], [f"p{n}" for n in range(5)]),
        (STEMS, ["p0", "p0", "p1", "p1", "p2"]),
    ],
)
def test_a_number_after_one_word_is_the_patients(tmp_path: Path, stems: list[str], patients: list[str]) -> None:
    found = [pair.patient for pair in pairs(folders(tmp_path, deep(65535), stems))]
    assert found == patients


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_the_range_of_arrays_is_believed_where_it_is_given(tmp_path: Path, low: float, high: float) -> None:
    def save(path: Path, grey: Any, part: str) -> None:
        np.save(f"{path}.npy", grey / 255 * (high - low) + low)

    place = folders(tmp_path, save)
    for pair, real in zip(pairs(place, array_range=(low, high)), GREY["real"], strict=True):
        np.testing.assert_allclose(pair.real, real, atol=1e-9)
    if low == 0:
        with pytest.raises(DataError, match=rf"as in a range of \[0, {high:g}\]; give --array-range 0 {high:g}"):
            pairs(place)


def test_a_range_of_arrays_rises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`array_range` must be two rising numbers; got 1 and 0"):
        pairs(folders(tmp_path, deep(65535)), array_range=(1.0, 0.0))


def test_without_masks_whole_images_alone_are_scored_and_it_is_said(tmp_path: Path) -> None:
    place = folders(tmp_path, deep(65535))
    scores = evaluate_folders([place / "real"], [place / "fake"], None)
    with_masks = evaluate_folders([place / "real"], [place / "fake"], [place / "masks"])
    assert scores.region is None and "No masks were given: whole images alone were scored." in scores.notes
    cell, same = (found.results["generated"]["A2B"]["mean"] for found in (scores, with_masks))
    assert cell["psnr"] == same["psnr"] and cell["ssim"] == same["ssim"] and cell["tpsnr"] is None
    text = render_text(scores.results, scores.region, scores.notes)
    assert "TPSNR" not in text and "lesions" not in text and "PSNR" in text
