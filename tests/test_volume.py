"""A scan comes back from translation on its own grid, in its units, through the very steps of ``prepare``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

import roi_progressive
from roi_progressive.config import Config, GGDConfig
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.preparation import Preparation, Spread, read_preparation
from roi_progressive.data.prepare import prepare
from roi_progressive.errors import ConfigError, DataError, DivergenceError, ShapeError
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.translate import translate
from roi_progressive.runs.volume_translator import TranslatedVolume
from roi_progressive.saving.records import read_json

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
from volumes_at import body_in_air, geometry, mr_in_air, upright, values, write_at  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

STS = Path(__file__).resolve().parents[2] / "shared" / "data" / "sts"
HALF_A_GREY_LEVEL_HU = 400 / 255 / 2


def identity(source: Tensor) -> Tensor:
    return source


def both_in_hu(**changes: Any) -> Preparation:
    options = {"size_px": 40, "domains": ("CT", "CBCT"), **changes}
    return Preparation(PrepareOptions(**options), {"A": True, "B": True})


def ct_and_mr(**changes: Any) -> Preparation:
    return Preparation(PrepareOptions(**{"size_px": 40, **changes}), {"A": True, "B": False})


def same(scan: Path, out: Path, preparation: Preparation, **more: Any) -> TranslatedVolume:
    """What a generator that changes nothing makes of a scan."""
    given = {"direction": "A2B", "generator": identity, **more}
    return roi_progressive.translate_volume(scan, out, preparation=preparation, **given)


# -- there and back ----------------------------------------------------------------------------------------------------


def turned(seed: int) -> Any:
    """A slanted direction, its axes in another order and some of them the other way round."""
    random = np.random.default_rng(seed)
    slanted = Rotation.from_rotvec(random.uniform(-0.35, 0.35, 3)).as_matrix()
    return slanted[:, random.permutation(3)] * random.choice([-1.0, 1.0], 3)


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
@pytest.mark.parametrize("slices", [1, 6])
def test_a_picture_as_large_as_the_square_comes_back_voxel_by_voxel(tmp_path: Path, slices: int, ending: str) -> None:
    """Nothing is resized, so that 8 bits are all that is lost: noise and edges come back too."""
    hu = body_in_air((slices, 40, 40))
    scan = write_at(tmp_path / f"scan.{ending}", hu, direction=turned(slices) if slices > 1 else np.diag([1, -1, -1]))
    if slices > 1:  # drawn upright, stored as its axes have it
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((2, 2, 3))
        image.SetDirection(Rotation.from_rotvec([0.2, -0.1, 0.3]).as_matrix().ravel().tolist())
        sitk.WriteImage(sitk.DICOMOrient(image, "PIR"), str(scan))
    out = tmp_path / f"out.{ending}"
    report = same(scan, out, both_in_hu())
    assert geometry(out) == geometry(scan)
    inside = np.clip(values(scan), -160, 240)
    assert np.abs(values(out) - inside).max() <= HALF_A_GREY_LEVEL_HU + 1e-3
    assert report.units == "HU" and report.slices == geometry(scan)[3][2]


@pytest.mark.parametrize("seed", range(10))
def test_a_volume_anywhere_in_space_comes_back_to_half_a_grey_level(tmp_path: Path, seed: int) -> None:
    """Of ten grids, slanted, mirrored, of any order of axes, of unequal voxels, one slice or several."""
    random = np.random.default_rng(seed)
    rows, columns = int(random.integers(36, 60)), int(random.integers(36, 60))
    slices = 1 if seed == 3 else int(random.integers(2, 6))
    spacing = (60 / columns, 60 / rows, float(random.uniform(0.5, 5)))
    r, c = np.arange(rows)[:, None] + 0.5, np.arange(columns)[None, :] + 0.5
    # Flat where the picture ends, so that it is as well known there as elsewhere.
    wave = np.cos(np.pi * r / rows) * np.cos(np.pi * c / columns)
    hu = np.stack([40 + 150 * (1 - 0.1 * index) * wave for index in range(slices)]).astype(np.float32)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing)
    image.SetOrigin(random.uniform(-200, 200, 3).tolist())
    image.SetDirection(Rotation.from_rotvec(random.uniform(-0.35, 0.35, 3)).as_matrix().ravel().tolist())
    scan = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(image, ["LPS", "RAI", "PSR", "ASL", "LIP"][seed % 5]), str(scan))
    out = tmp_path / "out.nii.gz"
    same(scan, out, both_in_hu(size_px=int(random.integers(36, 72)), dtype="float32"))
    assert geometry(out) == geometry(scan)
    assert np.abs(values(out) - values(scan)).max() <= HALF_A_GREY_LEVEL_HU


def test_an_mr_comes_back_as_grey_between_the_percentiles_of_its_body(tmp_path: Path) -> None:
    mr = mr_in_air()
    scan = write_at(tmp_path / "mr.nii.gz", mr)
    preparation = Preparation(PrepareOptions(size_px=40, domains=("T1", "T2")), {"A": False, "B": False})
    report = same(scan, tmp_path / "out.nii.gz", preparation)
    body = mr > 300
    low, high = np.percentile(mr[body], (0.5, 99.5))
    expected = np.where(body, np.clip((mr - low) / (high - low), 0, 1) * 255, 0)
    assert np.abs(values(tmp_path / "out.nii.gz") - expected).max() <= 0.5 + 1e-3
    assert report.units == "grey levels"
    assert any("grey levels of the training's normalisation, 0 to 255" in note for note in report.notes)


def test_what_lies_outside_the_square_holds_the_window_s_low_end_and_is_counted(tmp_path: Path) -> None:
    hu = np.full((4, 40, 60), -1000, np.float32)
    hu[1:3, :, 10:50] = body_in_air((2, 40, 40))
    scan = write_at(tmp_path / "scan.nii.gz", hu)
    report = same(scan, tmp_path / "out.nii.gz", both_in_hu())
    out = values(tmp_path / "out.nii.gz")
    assert (out[[0, 3]] == -160).all() and (out[:, :, :10] == -160).all() and (out[:, :, 50:] == -160).all()
    untouched = hu.size - 2 * 40 * 40
    assert any(f"{untouched:,} voxels were not translated and hold -160" in note for note in report.notes)
    assert any("or in the 2 slices that show none" in note for note in report.notes)
    low_or_high = int(np.isin(out[1:3, :, 10:50], (-160, 240)).sum())
    assert any(f"{low_or_high:,} of the translated voxels hold one of the two" in note for note in report.notes)
    body = hu > -300
    share = ((hu < -160) | (hu > 240))[body].mean()
    assert any(f"{share:.1%} of the scan's body lies beyond the window of -160 to 240 HU" in n for n in report.notes)


def test_a_body_larger_than_the_field_of_view_is_said_to_be_cut(tmp_path: Path) -> None:
    hu = body_in_air()
    scan = write_at(tmp_path / "scan.nii.gz", hu)  # 80 mm wide
    report = same(scan, tmp_path / "out.nii.gz", both_in_hu(size_px=20, field_of_view_mm=40.0))
    out, body = values(tmp_path / "out.nii.gz"), hu > -300
    middle = np.clip(hu[:, 10:30, 10:30], -160, 240)
    assert np.abs(out[:, 10:30, 10:30] - middle).max() <= HALF_A_GREY_LEVEL_HU + 1e-3
    out[:, 10:30, 10:30] = -160
    assert (out == -160).all()
    share = 1 - body[:, 10:30, 10:30].sum() / body.sum()
    assert f"{share:.1%} of the scan's body lies outside of the square of 40 mm and was not translated" in report.notes


# -- the same slices as those of a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of three patients, each as wide in all its slices."""
    return three_patients(tmp_path_factory.mktemp("scans"))


def three_patients(folder: Path, reach: Sequence[float] = (1, 1, 1, 1)) -> Path:
    """CT and MR of three patients; ``reach`` is the body's radius in each slice, as a share of the widest."""
    lines = ["patient,modality,image,split"]
    for number, split in enumerate(("train", "train", "test")):
        for modality, draw in (("CT", body_in_air), ("MR", mr_in_air)):
            turn = Rotation.from_rotvec([0.1, 0.05 * number, -0.1]).as_matrix() @ np.diag([-1, 1, -1])
            name = f"p{number}_{modality.lower()}.nii.gz"
            scan = draw((len(reach), 44, 50), number)
            rows, columns = np.mgrid[-1:1:44j, -1:1:50j]
            air = np.hypot(rows, columns) >= 1.001 * np.asarray(reach)[:, None, None]
            scan[air] = np.broadcast_to(scan[:, :1, :1], scan.shape)[air]
            write_at(folder / name, scan, (1.5, 1.7, 3 + number), turn)
            lines.append(f"p{number},{modality},{name},{split}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def trained_on(
    table: Path, folder: Path, networks: dict[str, Any], config: Config | None, **options: Any
) -> tuple[Path, Path]:
    prepare(table, folder / "data", PrepareOptions(**{"size_px": 32, "slices_each_side": 500, **options}))
    chosen = TrainOptions(**networks, epochs=1, decay_epochs=0, batch_size=4, average_decay=0.9, device="cpu")
    train(folder / "data", folder / "run", chosen, config)
    return folder / "data", folder / "run"


@pytest.fixture(scope="module")
def trained(
    made_up: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A data set and a run with uncertainty heads on it."""
    config = Config(regions=(), ggd=GGDConfig(hidden_channels=2, weight=1.0))
    return trained_on(made_up / "scans.csv", tmp_path_factory.mktemp("trained"), small_networks, config)


SCANS = {"A2B": "p2_ct.nii.gz", "B2A": "p2_mr.nii.gz"}


def as_pictures(folder: Path) -> None:
    """Generated arrays as pictures too, which the comparison reads."""
    for path in folder.rglob("*.npy"):
        if "sigma" not in path.parent.name:
            grey = np.rint((np.load(path) + 1) * 127.5).astype(np.uint8)
            Image.fromarray(grey).save(path.with_suffix(".png"))


def assert_slices_are_those_of_the_run(
    data: Path, run: Path, scan: Path, direction: str, patient: str
) -> TranslatedVolume:
    """The generated slices of ``evaluate``, brought to the scan's grid by scikit-image, against the volume's."""
    from skimage import transform

    out, spread = scan.parent / "out" / scan.name, scan.parent / "sigma" / scan.name
    report = roi_progressive.translate_volume(scan, out, run=run, direction=direction, sigma=spread, device="cpu")
    assert geometry(out) == geometry(spread) == geometry(scan)
    volume, sigma = upright(out), upright(spread)
    manifest = read_json(data / "manifest.json")
    entries = [e for e in manifest["slices"] if e["patient"] == patient and e["domain"] == direction[0]]
    assert entries
    low, level = (-160.0, 400 / 255) if direction == "B2A" else (0.0, 1.0)
    for entry in entries:
        square = entry["square_px"]
        top, left, size = square["top"], square["left"], (square["height"], square["width"])
        with Image.open(run / "test" / direction / f"{entry['name']}.png") as picture:
            grey = np.asarray(picture, dtype=np.float64)
        exact = np.load(run / "test" / f"{direction}_sigma" / f"{entry['name']}.npy")
        for generated, plane, start, most in (
            (grey, volume[entry["index"]], low, 1.0),
            (exact, sigma[entry["index"]], 0.0, 0.02),
        ):
            back = transform.resize(generated, size, order=1, mode="edge", anti_aliasing=True, preserve_range=True)
            rows, columns = plane.shape
            inner = back[max(0, -top) : rows - top, max(0, -left) : columns - left]
            cut = plane[max(0, top) : top + size[0], max(0, left) : left + size[1]]
            np.testing.assert_allclose((cut - start) / level, inner, atol=most)
    assert report.units == ("HU" if direction == "B2A" else "grey levels")
    return report


@pytest.mark.parametrize("direction", ["A2B", "B2A"])
def test_every_slice_is_the_one_that_evaluate_scores_to_a_grey_level(
    made_up: Path, trained: tuple[Path, Path], direction: str
) -> None:
    data, run = trained
    translate(run, "test", device="cpu")
    scan = made_up / SCANS[direction]
    assert_slices_are_those_of_the_run(data, run, scan, direction, "p2")


@pytest.mark.parametrize("more", [{}, {"dtype": "float32"}, {"field_of_view_mm": 40.0}], ids=str)
@pytest.mark.parametrize("direction", ["A2B", "B2A"])
def test_of_a_scan_with_a_few_slices_in_the_data_set_these_are_the_same_and_the_others_lose_no_body(
    small_networks: dict[str, Any], tmp_path: Path, direction: str, more: dict[str, Any]
) -> None:
    """The body is narrow where the slices were taken from and wide elsewhere, so that their square does not hold it."""
    table = three_patients(tmp_path / "scans", (0.4, 0.4, 0.5, 0.6, 1, 1, 1)) / "scans.csv"
    config = Config(regions=(), ggd=GGDConfig(hidden_channels=2, weight=1.0))
    data, run = trained_on(table, tmp_path, small_networks, config, slices_each_side=1, **more)
    translate(run, "test", device="cpu")
    as_pictures(run / "test")
    scan = tmp_path / "elsewhere" / "another_name.nii.gz"
    scan.parent.mkdir()
    shutil.copy(table.parent / SCANS[direction], scan)
    report = assert_slices_are_those_of_the_run(data, run, scan, direction, "p2")
    assert any("another_name.nii.gz is a scan of the data set; " in note for note in report.notes)
    if not more.get("field_of_view_mm"):
        assert not any("was not translated" in note for note in report.notes)


def test_a_scan_that_is_not_in_the_data_set_is_cut_around_the_body_of_all_slices(
    small_networks: dict[str, Any], tmp_path: Path
) -> None:
    """The same whether the data set is there or gone."""
    table = three_patients(tmp_path / "scans", (0.5, 0.6, 1)) / "scans.csv"
    data, run = trained_on(table, tmp_path, small_networks, None, slices_each_side=0)
    scan = write_at(tmp_path / "new.nii.gz", mr_in_air((3, 44, 50), seed=9), (1.5, 1.7, 4))
    reports = []
    for name in ("there", "gone"):
        out = tmp_path / f"{name}.nii.gz"
        reports.append(roi_progressive.translate_volume(scan, out, run=run, direction="B2A", device="cpu"))
        data.rename(tmp_path / "moved") if name == "there" else None
    assert reports[0].notes == reports[1].notes and not any("of the data set" in note for note in reports[0].notes)
    np.testing.assert_array_equal(values(tmp_path / "there.nii.gz"), values(tmp_path / "gone.nii.gz"))


def test_a_standardised_mr_goes_through_the_same_scale(
    made_up: Path, small_networks: dict[str, Any], tmp_path: Path
) -> None:
    steps = ("standardise", "clip", "zscore")
    config = Config(regions=(), ggd=GGDConfig(hidden_channels=2))
    data, run = trained_on(
        made_up / "scans.csv", tmp_path, small_networks, config, mr_steps=steps, dtype="float32", field_of_view_mm=90.0
    )
    translate(run, "test", device="cpu")
    as_pictures(run / "test")
    scan = write_at(tmp_path / "p2_mr.nii.gz", values(made_up / "p2_mr.nii.gz"))
    image = sitk.ReadImage(str(made_up / "p2_mr.nii.gz"))
    sitk.WriteImage(image, str(scan))
    assert_slices_are_those_of_the_run(data, run, scan, "B2A", "p2")


@pytest.mark.slow
@pytest.mark.skipif(not STS.is_dir(), reason="no real scans in shared/data")
def test_a_real_patient_comes_back_on_its_grid_with_the_slices_of_the_run(
    small_networks: dict[str, Any], tmp_path: Path
) -> None:
    lines = ["patient,modality,image,split"]
    for patient, split in (("sts003", "train"), ("sts005", "test")):
        lines += [f"{patient},{m.upper()},{STS / f'{patient}_{m}.nii.gz'},{split}" for m in ("ct", "mr")]
    (tmp_path / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = Config(regions=(), ggd=GGDConfig(hidden_channels=2))
    data, run = trained_on(tmp_path / "scans.csv", tmp_path, small_networks, config, slices_each_side=4)
    translate(run, "test", device="cpu")
    for direction, modality in (("A2B", "ct"), ("B2A", "mr")):
        scan = tmp_path / f"{modality}.nii.gz"
        scan.symlink_to(STS / f"sts005_{modality}.nii.gz")
        assert_slices_are_those_of_the_run(data, run, scan, direction, "sts005")


def test_the_networks_alone_are_enough(made_up: Path, trained: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    _, run = trained
    alone = Path(shutil.copytree(run / "networks", tmp_path / "elsewhere"))
    scan = made_up / "p2_ct.nii.gz"
    for place, out in ((run, "a.nii.gz"), (alone, "b.nii.gz")):
        roi_progressive.translate_volume(scan, tmp_path / out, run=place, direction="A2B", device="cpu")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    record = (alone / "preparation.json").read_text(encoding="utf-8")
    assert "p0" not in record and str(made_up) not in record, "neither a patient nor a path is told"


# -- another code's generator ------------------------------------------------------------------------------------------


class _Shifted(nn.Module):
    """Brighter by a tenth of the range; and it forgets who it was unless it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.2))
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(1, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = self.drop(x + self.shift)
        assert not torch.is_grad_enabled()
        return shifted.expand(-1, 3, -1, -1)


def test_a_module_of_another_code_computes_in_evaluation_mode_and_is_left_as_it_was(tmp_path: Path) -> None:
    scan = write_at(tmp_path / "scan.nii.gz", body_in_air())
    net = _Shifted()
    net.drop.eval()
    same(scan, tmp_path / "out.nii.gz", both_in_hu(), generator=net)
    expected = np.clip(np.clip(body_in_air(), -160, 240) + 40, None, 240)
    assert np.abs(values(tmp_path / "out.nii.gz") - expected).max() <= HALF_A_GREY_LEVEL_HU + 1e-3
    assert net.training and net.norm.training and not net.drop.training
    assert net.shift.grad is None


def test_a_session_s_uncertainty_gives_sigma_in_the_units_of_the_target(tmp_path: Path) -> None:
    def sure(x: Tensor) -> roi_progressive.Uncertainty:
        return roi_progressive.Uncertainty(x, x, x, torch.full_like(x, 0.1))

    scan = write_at(tmp_path / "scan.nii.gz", body_in_air())
    same(scan, tmp_path / "a.nii.gz", both_in_hu(), generator=sure, sigma=tmp_path / "s.nii.gz")
    np.testing.assert_allclose(values(tmp_path / "s.nii.gz"), 0.1 * 200, rtol=1e-5)
    same(scan, tmp_path / "b.nii.gz", ct_and_mr(), generator=sure, sigma=tmp_path / "t.nii.gz")
    np.testing.assert_allclose(values(tmp_path / "t.nii.gz"), 0.1 * 127.5, rtol=1e-5)


def test_the_network_sees_few_slices_at_a_time_however_many_there_are(tmp_path: Path) -> None:
    seen: list[int] = []

    def count(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    scan = write_at(tmp_path / "scan.nii.gz", body_in_air((70, 16, 16)))
    same(scan, tmp_path / "out.nii.gz", both_in_hu(size_px=128), generator=count)
    assert max(seen) == 4 and sum(seen) == 70


# -- what is refused, and what is said ---------------------------------------------------------------------------------


def test_a_stop_halfway_leaves_nothing(tmp_path: Path) -> None:
    scan = write_at(tmp_path / "scan.nii.gz", body_in_air((40, 40, 40)))

    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        same(scan, tmp_path / "new" / "out.nii.gz", both_in_hu(), dicom=tmp_path / "dicom", report=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


def test_a_result_replaces_nothing_unless_it_is_ours_and_told_to(tmp_path: Path) -> None:
    scan = write_at(tmp_path / "scan.nii.gz", body_in_air())
    out = tmp_path / "out.nii.gz"
    same(scan, out, both_in_hu())
    before = out.read_bytes()
    with pytest.raises(DataError, match=r"`out` must not exist yet; .*out\.nii\.gz' does; .*--force"):
        same(scan, out, both_in_hu())
    same(scan, out, both_in_hu(), force=True)
    assert out.read_bytes() == before
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(scan.read_bytes())
    with pytest.raises(DataError, match="is not ours, by its header"):
        same(scan, copy, both_in_hu(), force=True)
    assert copy.read_bytes() == scan.read_bytes()
    for place in (scan, tmp_path / "." / "scan.nii.gz"):
        with pytest.raises(DataError, match="another place than the scan"):
            same(scan, place, both_in_hu(), force=True)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"out": "out.png"}, DataError, r"`out` must end in \.nii\.gz, \.nii, \.nrrd, \.mha"),
        ({"scan": "nowhere.nii.gz"}, DataError, "there is no '.*nowhere.nii.gz'"),
        ({"direction": None}, ConfigError, "`direction` must be given where no header tells the modality of scan"),
        ({"direction": "A2C"}, ConfigError, "`direction` must be one of A2B, B2A; got 'A2C'"),
        ({"preparation": None}, ConfigError, "`preparation` must say how the slices were made"),
        ({"generator": None}, ConfigError, "`run` or `generator` must be given; got neither"),
        ({"run": "x"}, ConfigError, "`run` or `generator` must be given; got both"),
        ({"sigma": "s.nii.gz"}, DataError, "`sigma` must be asked of a generator that returns an `Uncertainty`"),
        ({"generator": lambda x: x[..., 1:]}, ShapeError, r"images like \[\d, 1, 40, 40\]; it made \[\d, 1, 40, 39\]"),
        ({"generator": lambda x: 7}, ShapeError, "it made int"),
        ({"generator": lambda x: x * torch.nan}, DivergenceError, "finite numbers"),
        ({"direction": "B2A"}, DataError, "the values of scan.nii.gz are those of HU; to translate CT → MR give"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str) -> None:
    write_at(tmp_path / "scan.nii.gz", body_in_air())
    given = {"scan": "scan.nii.gz", "out": "out.nii.gz", "preparation": ct_and_mr(), "direction": "A2B", **changes}
    given = {"generator": identity, **given}
    for name in ("scan", "out", "sigma"):
        if name in given:
            given[name] = tmp_path / given[name]
    with pytest.raises(error, match=said) as caught:
        roi_progressive.translate_volume(given.pop("scan"), given.pop("out"), **given)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


def test_an_mr_where_a_ct_is_expected_is_refused_with_the_other_way(tmp_path: Path) -> None:
    scan = write_at(tmp_path / "mr.nii.gz", mr_in_air())
    with pytest.raises(DataError, match="must be in Hounsfield units for modality CT") as caught:
        same(scan, tmp_path / "out.nii.gz", ct_and_mr())
    assert caught.value.__notes__ == ["to translate MR → CT give --direction B2A"]


def test_values_like_hu_of_a_run_without_hu_are_said_as_they_were_in_its_preparation(tmp_path: Path) -> None:
    scan = write_at(tmp_path / "scan.nii.gz", body_in_air())
    preparation = Preparation(PrepareOptions(size_px=40, domains=("low dose", "full dose")), {"A": False, "B": False})
    report = same(scan, tmp_path / "out.nii.gz", preparation)
    assert any("looks like a CT in HU but was scaled by percentiles" in note for note in report.notes)


@pytest.mark.parametrize("padded", [False, True], ids=["cropped", "padded, as real scans are"])
def test_a_ct_taken_for_an_mr_is_refused_with_the_other_way_and_said_where_no_domain_is_in_hu(
    tmp_path: Path, padded: bool
) -> None:
    hu = np.random.default_rng(0).normal(40, 40, (4, 40, 40)).astype(np.float32)
    hu[:, 10:14, 10:14], hu[:, 20:30, 20:30] = -900, -100
    if padded:
        hu[:, :4], hu[:, -4:] = -3024, -3024
    scan = write_at(tmp_path / "crop.nii.gz", hu)
    with pytest.raises(DataError, match=r"must be of modality MR; [^;]* are those of HU; [^;]* --direction A2B"):
        same(scan, tmp_path / "out.nii.gz", ct_and_mr(), direction="B2A")
    neither = Preparation(PrepareOptions(size_px=40, domains=("low dose", "full dose")), {"A": False, "B": False})
    report = same(scan, tmp_path / "out.nii.gz", neither, direction="B2A")
    assert any("the values of crop.nii.gz could be HU" in note for note in report.notes)


def test_an_mr_that_was_padded_far_below_zero_is_an_mr(tmp_path: Path) -> None:
    mr = mr_in_air() / 4
    mr[:, :3], mr[:, -3:] = -1024, -1024
    scan = write_at(tmp_path / "mr.nii.gz", mr)
    same(scan, tmp_path / "out.nii.gz", ct_and_mr(), direction="B2A")


def test_another_spacing_or_scale_than_in_the_training_is_said_and_not_refused(tmp_path: Path) -> None:
    trained_on_3_mm = {"slices_mm": {"A": Spread(3, 3, 3.3)}, "pixels_mm": {"A": Spread(1.9, 2, 2.1)}}
    preparation = Preparation(PrepareOptions(size_px=40), {"A": True, "B": False}, {}, **trained_on_3_mm)
    scan = write_at(tmp_path / "alike.nii.gz", body_in_air())
    assert not any(" mm" in note for note in same(scan, tmp_path / "a.nii.gz", preparation).notes)
    scan = write_at(tmp_path / "other.nii.gz", body_in_air(), spacing=(3, 3, 5))
    notes = same(scan, tmp_path / "b.nii.gz", preparation).notes
    assert "the slices of other.nii.gz lie 5 mm apart, those of the training 3 to 3.3 mm" in notes
    assert any("is 3 mm wide, those of the training 1.9 to 2.1 mm: the body is drawn smaller" in note for note in notes)


def test_a_scan_without_a_body_is_refused(tmp_path: Path) -> None:
    hu = np.full((3, 20, 20), -1000, np.float32) + np.random.default_rng(0).normal(0, 20, (3, 20, 20))
    scan = write_at(tmp_path / "air.nii.gz", hu.astype(np.float32))
    with pytest.raises(DataError, match=r"air\.nii\.gz has no tissue"):
        same(scan, tmp_path / "out.nii.gz", both_in_hu())


def test_a_run_of_an_older_version_takes_its_preparation_from_the_data_set(
    made_up: Path, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    import json
    import shutil

    data, run = trained
    old = Path(shutil.copytree(run, tmp_path / "old"))
    described = {k: v for k, v in read_json(old / "run.json").items() if k not in ("preparation", "data_fingerprint")}
    (old / "run.json").write_text(json.dumps(described), encoding="utf-8")
    (old / "networks" / "preparation.json").unlink()
    scan = made_up / "p2_ct.nii.gz"
    with pytest.raises(DataError, match=r"`run` must know how its slices were made; .* with --data DIR"):
        roi_progressive.translate_volume(scan, tmp_path / "a.nii.gz", run=old, direction="A2B")
    given = {"direction": "A2B", "device": "cpu"}
    roi_progressive.translate_volume(scan, tmp_path / "a.nii.gz", run=old, preparation=data, **given)
    roi_progressive.translate_volume(scan, tmp_path / "b.nii.gz", run=run, **given)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    with pytest.raises(DataError, match="cannot be used"):
        roi_progressive.translate_volume(scan, tmp_path / "c.nii.gz", run=old, preparation=tmp_path, **given)


def test_the_data_set_s_manifest_and_the_run_tell_the_same(trained: tuple[Path, Path]) -> None:
    data, run = trained
    known = read_preparation(data)
    assert known.to_record() == read_json(run / "run.json")["preparation"]
    assert Preparation.from_record(known.to_record()).to_record() == known.to_record()
    of_training = known.slices_mm["A"]  # 3 and 4 mm; the patient to test on has 5
    assert (of_training.least, of_training.median, of_training.greatest) == pytest.approx((3, 3.5, 4))
    assert known.in_hounsfield == {"A": True, "B": False}
