"""The phantom: what lies where on disk, what its images show, and that its tumours reward more than flat paint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import optimize, stats
from torch import nn

from roi_progressive.data.phantom import (
    LESION_TYPES,
    PHANTOM_VERSION,
    PHASES,
    REGIONS,
    PhantomPatient,
    make_phantom,
    patients,
    phantom_patient,
)
from roi_progressive.data.phantom.tissue import TISSUES
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.saving.records import read_json

SMALL: dict[str, Any] = {"n_train": 4, "n_val": 1, "n_test": 3, "slices_per_patient": 3, "size_px": 32}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    return folder, make_phantom(folder, **SMALL, seed=5)


@pytest.fixture(scope="module")
def cohort() -> list[PhantomPatient]:
    """27 patients: every phase with every main tumour type, three times."""
    return [phantom_patient((7, k), phase=PHASES[k % 3], lesion=LESION_TYPES[k // 3 % 3]) for k in range(27)]


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---------------------------------------------------------------------------------------------------------- on disk


def test_same_phantom_seed_gives_the_same_bytes_and_another_seed_other_patients(small, tmp_path):
    folder, _ = small
    make_phantom(tmp_path / "again", **SMALL, seed=5)
    make_phantom(tmp_path / "other", **SMALL, seed=6)
    first, again, other = _digests(folder), _digests(tmp_path / "again"), _digests(tmp_path / "other")
    assert first == again
    images = {digest for name, digest in first.items() if name.split("/")[0] in ("trainA", "trainB", "testA", "testB")}
    assert images.isdisjoint(other.values())


def test_phantom_manifest_lists_exactly_the_images_on_disk(small):
    folder, manifest = small
    assert read_json(folder / "manifest.json") == manifest
    assert manifest["format"] == 1
    assert manifest["kind"] == "phantom"
    assert manifest["phantom_version"] == PHANTOM_VERSION == 1
    assert (manifest["regions"], manifest["phases"]) == (["liver", "tumor"], ["ART", "PV", "NC"])
    listed = [f"{row['split']}{row['domain']}/{row['name']}" for row in manifest["slices"]]
    assert len(listed) == len(set(listed)) == (4 + 2 * 1 + 2 * 3) * 3
    on_disk = {f"{p.parent.name}/{p.name}" for p in folder.glob("*/*.png")}
    masks = {f"{folder_}_{region}/{name}" for folder_, name in (p.split("/") for p in listed) for region in REGIONS}
    assert on_disk == set(listed) | masks
    for row in manifest["slices"]:
        assert row["name"] == f"{row['patient']}_{row['phase']}_{row['index']:03d}.png"


def test_phantom_masks_are_binary_of_their_images_size_and_of_the_area_in_the_manifest(small):
    folder, manifest = small
    for row in manifest["slices"]:
        stem = f"{row['split']}{row['domain']}"
        with Image.open(folder / stem / row["name"]) as image:
            assert (image.mode, image.size) == ("L", (32, 32))
        masks = {}
        for region in REGIONS:
            with Image.open(folder / f"{stem}_{region}" / row["name"]) as mask:
                assert (mask.mode, mask.size) == ("L", (32, 32))
                masks[region] = np.array(mask)
            assert set(np.unique(masks[region])) == {0, 255}
            assert (masks[region] > 0).sum() == row["region_areas_px"][region]
        assert not ((masks["tumor"] > 0) & (masks["liver"] == 0)).any()


def test_phantom_training_is_unpaired_and_its_test_paired(small):
    folder, manifest = small
    patients = {
        (split, domain): {r["patient"] for r in manifest["slices"] if (r["split"], r["domain"]) == (split, domain)}
        for split in ("train", "val", "test")
        for domain in "AB"
    }
    assert len(patients["train", "A"]) == len(patients["train", "B"]) == 2
    assert patients["train", "A"].isdisjoint(patients["train", "B"])
    for split in ("val", "test"):
        assert patients[split, "A"] == patients[split, "B"]
        names = [sorted(p.name for p in (folder / f"{split}{domain}").iterdir()) for domain in "AB"]
        assert names[0] == names[1]
        for region in REGIONS:
            for name in names[0]:
                a, b = ((folder / f"{split}{d}_{region}" / name).read_bytes() for d in "AB")
                assert a == b
    splits = [patients["train", "A"] | patients["train", "B"], patients["val", "A"], patients["test", "A"]]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 8


def test_phantom_parts_are_balanced_over_phases_and_tumour_types(tmp_path):
    manifest = make_phantom(tmp_path / "p", n_train=18, n_val=3, n_test=9, slices_per_patient=1, size_px=32)
    rows = manifest["slices"]
    for split, domain in (("train", "A"), ("train", "B"), ("test", "A")):
        kinds = [(r["phase"], r["lesions"][0]) for r in rows if (r["split"], r["domain"]) == (split, domain)]
        assert sorted(kinds) == sorted((phase, lesion) for phase in PHASES for lesion in LESION_TYPES)
    val = [(r["phase"], r["lesions"][0]) for r in rows if (r["split"], r["domain"]) == ("val", "A")]
    assert {phase for phase, _ in val} == set(PHASES)
    assert {lesion for _, lesion in val} == set(LESION_TYPES)


def test_phantom_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="`out` must be a new or empty folder"):
        make_phantom(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="is a file"):
        make_phantom(tmp_path / "notes.txt", **SMALL, force=True)


def test_forced_phantom_replaces_a_phantom_and_nothing_else(tmp_path):
    make_phantom(tmp_path, **{**SMALL, "n_test": 4}, seed=1)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "trainA" / "mine.png").write_bytes(b"mine")
    make_phantom(tmp_path, **SMALL, seed=5, force=True)
    after = _digests(tmp_path)
    mine = hashlib.sha256(b"mine").hexdigest()
    assert after.pop("notes.txt") == after.pop("trainA/mine.png") == mine
    make_phantom(tmp_path / "fresh", **SMALL, seed=5)
    assert after == _digests(tmp_path / "fresh")


@pytest.mark.parametrize("there", ["a picture of the user's", "a phantom without its record"])
def test_forced_phantom_takes_no_file_for_ours_by_its_name(there, tmp_path):
    make_phantom(tmp_path / "data", **SMALL)
    (tmp_path / "data" / "written.json").unlink()
    if there == "a picture of the user's":  # which may be called as one of the phantom's
        for path in sorted(tmp_path.rglob("*.*"))[1:]:
            path.unlink()
    before = _digests(tmp_path)
    assert len(before) == 1 or there != "a picture of the user's"
    with pytest.raises(DataError, match="is not ours; move it away"):
        make_phantom(tmp_path / "data", **SMALL, force=True)
    assert _digests(tmp_path) == before


def test_a_phantom_that_is_stopped_leaves_what_was_there(tmp_path, monkeypatch):
    make_phantom(tmp_path / "data", **SMALL, seed=1)
    before = _digests(tmp_path)
    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(patients, "_write_png", stop)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "data", **SMALL, seed=2, force=True)
    assert _digests(tmp_path) == before


@pytest.mark.parametrize("text", ['{"kind": "prepared"}', "[]", "not json"])
def test_forced_phantom_never_replaces_prepared_data(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="name another folder"):
        make_phantom(tmp_path, **SMALL, force=True)
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_train": 1}, "`n_train`"),
        ({"size_px": 31}, "`size_px`"),
        ({"seed": -1}, "`seed`"),
        ({"n_test": 1.0}, "`n_test`"),
    ],
)
def test_phantom_names_the_argument_that_is_wrong(tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        make_phantom(tmp_path / "p", **{**SMALL, **wrong})
    assert not (tmp_path / "p").exists()


# ------------------------------------------------------------------------------------------------------- in memory


def test_phantom_patient_names_the_choices_for_phase_and_lesion():
    with pytest.raises(ConfigError, match="`phase` must be one of ART, PV, NC"):
        phantom_patient(0, phase="art")
    with pytest.raises(ConfigError, match="`lesion` must be one of hypodense, rim, cyst"):
        phantom_patient(0, lesion="solid")


@pytest.mark.parametrize(("slices", "size_px"), [(1, 32), (9, 64), (4, 100)])
def test_phantom_patient_fills_its_range_and_shows_tumour_in_every_slice(slices, size_px):
    for k in range(6):
        patient = phantom_patient((k, 3), slices=slices, size_px=size_px, lesion=LESION_TYPES[k % 3])
        for image in (patient.ct, patient.mr):
            assert image.shape == (slices, size_px, size_px)
            assert image.dtype == np.float32
            assert -1 <= image.min() < -0.95
            assert 0.5 < image.max() <= 1
        assert patient.masks["tumor"].any(axis=(1, 2)).all()


def test_phantom_tumours_are_large_enough_to_see_and_lie_in_the_liver(cohort):
    areas = np.concatenate([patient.masks["tumor"].sum(axis=(1, 2)) for patient in cohort])
    assert np.mean(areas >= 12) > 0.98
    assert np.median(areas) < 200
    for patient in cohort:
        liver, tumor = patient.masks["liver"], patient.masks["tumor"]
        assert not (tumor & ~liver).any()
        assert (liver & ~tumor).sum() > tumor.sum()
        assert 1 <= len(patient.lesions) <= 3


def test_phantom_tumour_area_peaks_in_the_middle_slices(cohort):
    areas = np.mean([patient.masks["tumor"].sum(axis=(1, 2)) for patient in cohort], axis=0)
    assert areas.argmax() in (3, 4, 5)
    assert max(areas[0], areas[-1]) < 0.8 * areas.max()


def test_phantom_noise_is_low_and_independent_in_the_two_modalities():
    patient = phantom_patient(11)
    air = [(image[:, :6].ravel() + 1) * 127.5 for image in (patient.ct, patient.mr)]
    for values in air:  # clipped at 0: the upper half of the noise
        assert 1.5 < np.sqrt(2 * np.mean(np.square(values))) < 4
    assert abs(stats.spearmanr(*air)[0]) < 0.06


def test_phantom_contrasts_are_those_of_version_one():
    """Frozen: whoever changes these must raise PHANTOM_VERSION, for old results no longer compare."""
    patient = phantom_patient(2024, phase="PV", lesion="hypodense")
    tumor = patient.masks["tumor"]
    liver = patient.masks["liver"] & ~tumor
    grey = [(image[mask].mean() + 1) * 127.5 for image in (patient.ct, patient.mr) for mask in (liver, tumor)]
    assert grey == pytest.approx([173.3, 93.9, 141.1, 201.4], abs=1.0)
    assert [liver.sum(), tumor.sum()] == pytest.approx([4430, 474], rel=0.02)


# ------------------------------------------------------------------------------------------ what it asks of a network


def _contrast(tissue: str, modality: str) -> np.ndarray[Any, Any]:
    return np.subtract(getattr(TISSUES[tissue], modality), getattr(TISSUES["liver"], modality))


def test_phantom_tumours_are_dark_in_ct_and_bright_in_mr_and_rims_and_benign_nodules_the_reverse():
    for tissue in ("hypodense", "necrosis", "cyst"):
        assert (_contrast(tissue, "ct") < -40).all()
        assert (_contrast(tissue, "mr") > 40).all()
        assert (_contrast(f"benign {tissue}", "ct") > 40).all()
        assert (_contrast(f"benign {tissue}", "mr") < -40).all()
    assert (_contrast("rim", "ct") > 15).all()
    assert (_contrast("rim", "mr") < -30).all()


def test_phantom_texture_turns_its_sign_in_one_tumour_type_and_not_in_another(cohort):
    ranks = {}
    for lesion in LESION_TYPES:
        alone = [p for p in cohort if set(p.lesions) == {lesion}]
        assert alone
        ranks[lesion] = np.mean([stats.spearmanr(p.ct[p.masks["tumor"]], p.mr[p.masks["tumor"]])[0] for p in alone])
    assert ranks["hypodense"] < -0.25
    assert ranks["cyst"] > ranks["hypodense"] + 0.25


@pytest.mark.parametrize("tissue", ["hypodense", "necrosis", "cyst", "spleen", "muscle", "marrow", "pancreas"])
def test_phantom_mr_turns_round_over_the_range_of_a_tissues_ct(tissue):
    t = np.linspace(-1.7, 2.8, 400)
    assert (np.diff(TISSUES[tissue].ct_level("PV", t)) > 0).all()
    slope = np.sign(np.diff(TISSUES[tissue].mr_level("PV", t)))
    assert (slope > 0).mean() > 0.1
    assert (slope < 0).mean() > 0.1


def test_the_best_monotonic_grey_level_map_of_whole_phantom_images_is_worse_in_tumours_than_flat_paint(cohort):
    ct, mr, tumor = (
        np.concatenate([values(p).ravel() for p in cohort[:9]])
        for values in (lambda p: p.ct, lambda p: p.mr, lambda p: p.masks["tumor"])
    )
    for x, y in ((ct, mr), (mr, ct)):
        order = np.argsort(x, kind="stable")
        target, inside = y[order], tumor[order]
        fits = [optimize.isotonic_regression(target, increasing=up).x for up in (True, False)]
        fit = min(fits, key=lambda fit: np.mean((target - fit) ** 2))
        assert np.mean((target - fit)[inside] ** 2) > 2 * target[inside].var()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small convolutions on a busy machine are many times slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _SmallUNet(nn.Module):
    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.fine, self.middle, self.deep = _block(1, width), _block(width, 2 * width), _block(2 * width, 4 * width)
        self.up_middle, self.up_fine = _block(6 * width, 2 * width), _block(3 * width, width)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = self.fine(image)
        middle = self.middle(nn.functional.max_pool2d(fine, 2))
        deep = self.deep(nn.functional.max_pool2d(middle, 2))
        middle = self.up_middle(torch.cat([middle, nn.functional.interpolate(deep, scale_factor=2.0)], 1))
        return self.out(self.up_fine(torch.cat([fine, nn.functional.interpolate(middle, scale_factor=2.0)], 1)))


def _block(channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (channels_in, channels):
        layers += [nn.Conv2d(c, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _windows(patients: list[PhantomPatient]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """CT, MR and tumour mask of every slice, 24 px around the tumour, after a passage through 8 bits."""
    cut: list[list[np.ndarray[Any, Any]]] = [[], [], []]
    for patient in patients:
        tumor = patient.masks["tumor"]
        for k in range(len(tumor)):
            row, column = (int(np.clip(c.mean() - 12, 0, 40)) for c in np.nonzero(tumor[k]))
            for target, volume in zip(cut, (patient.ct, patient.mr, tumor), strict=True):
                target.append(volume[k, row : row + 24, column : column + 24])
    ct, mr, mask = (torch.from_numpy(np.stack(images))[:, None].float() for images in cut)
    return ((ct + 1) * 127.5).round() / 127.5 - 1, ((mr + 1) * 127.5).round() / 127.5 - 1, mask


def _tpsnr(fake: torch.Tensor, real: torch.Tensor, mask: torch.Tensor) -> float:
    error = ((fake - real) * 127.5).square() * mask
    return float((10 * torch.log10(255**2 / (error.sum((1, 2, 3)) / mask.sum((1, 2, 3))))).mean())


@pytest.mark.parametrize("direction", ["A2B", "B2A"])
def test_a_small_network_trained_on_phantom_pairs_beats_constant_fill(cohort, direction, one_thread):
    train = _windows(cohort)
    test = _windows([phantom_patient((8, k), phase=PHASES[k % 3], lesion=LESION_TYPES[k // 3]) for k in range(9)])
    if direction == "B2A":
        train, test = (train[1], train[0], train[2]), (test[1], test[0], test[2])
    source, target, mask = train
    fill = _tpsnr(target[mask > 0].mean().expand_as(test[1]), test[1], test[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _SmallUNet()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=200)
        for _ in range(200):
            pick = torch.randint(len(source), (12,))
            flip = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
            x, y, m = (part[pick].flip(flip) for part in (source, target, mask))
            loss = ((network(x) - y).square() * (m + 0.05)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            trained = _tpsnr(network(test[0]).clamp(-1, 1), test[1], test[2])
    assert 14 < fill < 21
    assert trained > fill + 4
