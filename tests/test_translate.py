"""Translated images are the generator's own, under their sources' names, and come all together or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import gamma

from roi_progressive.config import Config, GGDConfig
from roi_progressive.errors import CheckpointError, DataError
from roi_progressive.method.generator import UNetGenerator
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.translate import translate
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def options(small_networks: dict[str, Any]) -> TrainOptions:
    return TrainOptions(**small_networks, epochs=2, decay_epochs=0, learning_rate=0.01, average_decay=0.0)


@pytest.fixture(scope="module")
def sure(small_data: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with uncertainty heads and no region."""
    run = tmp_path_factory.mktemp("runs") / "sure"
    train(small_data, run, options, Config(regions=(), ggd=GGDConfig(weight=1.0)))
    return run


@pytest.fixture(scope="module")
def plain(small_data: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "plain"
    train(small_data, run, options)
    return run


def _grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("direction", ["A2B", "B2A"])
def test_images_and_maps_are_what_the_saved_generator_makes(
    direction: str, small_data: Path, small_networks: dict[str, Any], sure: Path
) -> None:
    """The saved file in a generator of our own; sigma by the textbook's variance of a generalized Gaussian."""
    folder = translate(sure)[direction]
    net = UNetGenerator(1, 1, small_networks["channels"], small_networks["depth"])
    name = {"A2B": "G_A", "B2A": "G_B"}[direction]
    state = torch.load(sure / "networks" / f"2_net_{name}.pth", weights_only=True)
    net.load_state_dict(state)
    source = small_data / f"test{direction[0]}"
    maps = folder.with_name(f"{direction}_sigma")
    assert _names(folder) == sorted([*_names(source), "written.json"])
    assert _names(maps) == sorted([*_names(folder), *(f"{path.stem}.npy" for path in source.iterdir())])
    for path in source.iterdir():
        x = torch.from_numpy(_grey(path) / np.float32(127.5) - 1)[None, None]
        with torch.no_grad():
            image, alpha, beta = (part[0, 0].double().numpy() for part in net.distribution(x))
        np.testing.assert_allclose(_grey(folder / path.name), (image + 1) * 127.5, atol=0.51)
        sigma = np.sqrt(alpha**2 * gamma(3 / beta) / gamma(1 / beta)) * 127.5
        assert sigma.std() > 0
        np.testing.assert_allclose(_grey(maps / path.name), np.minimum(sigma, 255), atol=0.51)
        exact = np.load(maps / f"{path.stem}.npy")
        assert exact.dtype == np.float32
        np.testing.assert_allclose(exact, sigma, rtol=1e-4)


def test_a_run_without_uncertainty_has_images_only(small_data: Path, plain: Path) -> None:
    seen: list[tuple[int, int]] = []
    folders = translate(plain, "val", report=lambda done, total, _: seen.append((done, total)))
    assert folders == {direction: plain / "val" / direction for direction in ("A2B", "B2A")}
    assert _names(plain / "val") == ["A2B", "B2A"]
    assert _names(folders["A2B"]) == sorted([*_names(small_data / "valA"), "written.json"])
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_stop_halfway_leaves_what_was_there_and_no_half(plain: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        translate(plain, "train", report=stop)
    assert _names(plain / "train") == []
    translate(plain, "train")
    before = {path: path.read_bytes() for path in (plain / "train").rglob("*") if path.is_file()}
    with pytest.raises(KeyboardInterrupt):
        translate(plain, "train", report=stop)
    assert {path: path.read_bytes() for path in (plain / "train").rglob("*") if path.is_file()} == before


def test_an_earlier_translation_is_replaced_whole(plain: Path) -> None:
    folder = translate(plain)["A2B"]
    record = read_json(folder / "written.json")
    (folder / "gone_PV_001.png").write_bytes(b"stale")
    write_json(folder / "written.json", {**record, "files": {**record["files"], "gone_PV_001.png": None}})
    for mine in (plain / "test" / "mine.txt", folder / "mine.txt", folder / ".DS_Store", folder / "more" / "mine.png"):
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine", encoding="utf-8")
    translate(plain)
    assert "gone_PV_001.png" not in _names(folder)
    assert (plain / "test" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert (
        (folder / "mine.txt").read_text(encoding="utf-8")
        == (folder / "more" / "mine.png").read_text(encoding="utf-8")
        == "mine"
    )
    assert _names(folder.parent) == ["A2B", "B2A", "mine.txt"]


def test_a_file_of_the_user_s_under_the_name_of_an_image_is_not_replaced(plain: Path) -> None:
    folder = translate(plain, "val")["A2B"]
    (folder / "written.json").unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        DataError, match=r"`out` must not hold other files of the names to be written; [^\n]+ is not ours"
    ):
        translate(plain, "val")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)
    translate(plain, "val")


def test_what_is_missing_is_said(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`split` must be one of train, val, test; got 'networks'"):
        translate(plain, "networks")
    with pytest.raises(CheckpointError, match=r"must be one whose networks are kept: 2 \(last\); got 7"):
        translate(plain, epoch=7)
    without = Path(shutil.copytree(plain, tmp_path / "without"))
    (without / "networks" / "2_net_G_A.pth").unlink()
    with pytest.raises(CheckpointError, match="2_net_G_A"):
        translate(without, epoch=2)
    with pytest.raises(DataError, match="is no folder"):
        translate(tmp_path / "nowhere")
    run = shutil.copytree(plain, tmp_path / "run")
    write_json(run / "run.json", {**read_json(run / "run.json"), "data": str(tmp_path / "gone")})
    with pytest.raises(DataError, match="must still be there"):
        translate(run)
