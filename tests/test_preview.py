"""The picture of a run's few slices: which they are, what is outlined, and that nothing about it stops a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from roi_progressive.data.contact_sheet import COLOURS, outline
from roi_progressive.data.phantom import make_phantom
from roi_progressive.errors import DivergenceError
from roi_progressive.runs.preview import GAP_PX, LINE_PX, TILE_PX, Preview
from roi_progressive.runs.train import TrainOptions, train

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
STEP_PX = TILE_PX + GAP_PX


class Negative(nn.Module):
    """Black for white."""

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        return -source


BOTH = {"A2B": Negative(), "B2A": Negative()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("preview") / "data"
    make_phantom(root, n_train=2, n_val=2, n_test=1, slices_per_patient=3, size_px=TILE_PX)
    return root


def drawn(data: Path, path: Path, regions: list[str], generators: Any = BOTH) -> np.ndarray[Any, Any]:
    Preview(data, regions).draw(path, generators, CPU, "epoch 1")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def tile(sheet: np.ndarray[Any, Any], row: int, column: int) -> np.ndarray[Any, Any]:
    """One of six a row; between the directions lies a gap."""
    left = GAP_PX + column * STEP_PX + (4 * GAP_PX if column > 2 else 0)
    top = 4 * LINE_PX + row * (STEP_PX + LINE_PX)
    return sheet[top : top + TILE_PX, left : left + TILE_PX]


def grey(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def shown_slice(data: Path, domain: str, patient: str) -> Path:
    """Of a patient the slice with most of the tumour, by name where two have as much."""
    names = sorted(path.name for path in (data / f"val{domain}").glob(f"{patient}_*.png"))
    return data / f"val{domain}" / max(names, key=lambda n: (int((grey(data / f"val{domain}_tumor" / n) > 0).sum()), n))


def test_every_tile_is_the_slice_the_translation_or_the_truth_with_the_regions_outlined(
    data: Path, tmp_path: Path
) -> None:
    sheet = drawn(data, tmp_path / "p.png", ["liver", "tumor"])
    patients = sorted({path.name.rsplit("_", 2)[0] for path in (data / "valA").glob("*.png")})
    assert len(patients) == 2
    for row, patient in enumerate(patients):
        source = shown_slice(data, "A", patient)
        lines = np.zeros((TILE_PX, TILE_PX), dtype=bool)
        masks = [grey(data / f"valA_{name}" / source.name) > 0 for name in ("liver", "tumor")]
        for mask in masks:
            lines |= outline(mask)
        assert (tile(sheet, row, 0)[outline(masks[1])] == COLOURS[1]).all(), "the tumour's outline lies on top"
        for column, expected in (
            (0, grey(source)),
            (1, 255 - grey(source)),
            (2, grey(data / "valB" / source.name)),
        ):
            pixels = tile(sheet, row, column)
            if column == 2:
                lines = np.logical_or.reduce(
                    [outline(grey(data / f"valB_{n}" / source.name) > 0) for n in ("liver", "tumor")]
                )
            assert (pixels[~lines] == expected[~lines][:, None]).all()


def test_without_a_validation_part_training_slices_are_shown_and_what_leads_back(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("val*")))
    preview = Preview(root, [])
    assert preview._split == "train"
    preview.draw(tmp_path / "p.png", BOTH, CPU, "epoch 1")
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    same = (tile(sheet, 0, 0) == tile(sheet, 0, 2)).all(axis=-1).mean()
    assert same > 0.99, "twice the negative is the slice itself"
    assert not (tile(sheet, 0, 0) == tile(sheet, 0, 1)).all(axis=-1).mean() > 0.5


@pytest.mark.parametrize("spoilt", ["mask", "image", "size", "16 bits", "folder"])
def test_files_that_cannot_be_shown_stop_no_run(
    spoilt: str, small_data: Path, tmp_path: Path, small_networks: dict[str, Any]
) -> None:
    root = Path(shutil.copytree(small_data, tmp_path / "data"))
    image = next((root / "valA").glob("*.png"))
    mask = root / "valA_tumor" / image.name
    if spoilt == "mask":
        mask.write_bytes(b"no picture")
    elif spoilt == "image":
        image.write_bytes(b"no picture")
    elif spoilt == "size":
        Image.new("L", (8, 8)).save(mask)
    elif spoilt == "16 bits":
        Image.fromarray(np.zeros((32, 32), dtype=np.uint16)).save(image)
    else:
        shutil.rmtree(root / "valB")
    train(root, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    assert (tmp_path / "run" / "samples" / "epoch_0001.png").is_file()


def test_an_image_of_numbers_that_are_none_is_not_drawn(data: Path, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, source: torch.Tensor) -> torch.Tensor:
            return source * float("nan")

    with pytest.raises(DivergenceError, match="are infinite or NaN"):
        drawn(data, tmp_path / "p.png", [], {"A2B": Broken(), "B2A": Broken()})
    assert not (tmp_path / "p.png").exists()


def test_names_are_text_whatever_is_in_them(data: Path, tmp_path: Path) -> None:
    Preview(data, []).draw(tmp_path / "p.png", BOTH, CPU, "epoch \x1b[31m 1\n\u202e")
    assert (tmp_path / "p.png").is_file()
