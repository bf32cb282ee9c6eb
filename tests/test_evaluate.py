"""A run's table: the model beside what costs nothing, every empty cell with its reason, in JSON anybody can read."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.config import Config, GGDConfig
from roi_progressive.data.phantom import make_phantom
from roi_progressive.errors import ConfigError, DataError, MaskError, PluginError
from roi_progressive.evaluation.lesions import audit_lesions
from roi_progressive.evaluation.networks import ALEXNET_FILE, INCEPTION_FILE
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.evaluation.region_names import default_region
from roi_progressive.plugins.hookspecs import hookimpl
from roi_progressive.runs.evaluate import REFERENCES, evaluate_folders, evaluate_run, with_certainty
from roi_progressive.runs.scores import FILES, read_slices, write_scores
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")
METRICS = ("tpsnr", "tssim", "psnr", "ssim", "texture_ratio")
ROW = ("copy_source", "A2B", "mean")


@pytest.fixture(autouse=True)
def no_weights_in_torchs_cache(tmp_path: Path) -> Iterator[None]:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield
    torch.hub.set_dir(before)


@pytest.fixture(scope="module")
def made(small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom, ``data``, and a run on it, ``run``."""
    folder = tmp_path_factory.mktemp("made")
    make_phantom(folder / "data", n_train=2, n_val=0, n_test=3, slices_per_patient=2, size_px=32)
    train(folder / "data", folder / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """The same, to spoil."""
    folder = Path(shutil.copytree(made, tmp_path / "own"))
    described = read_json(folder / "run" / "run.json")
    write_json(folder / "run" / "run.json", {**described, "data": str(folder.resolve() / "data")})
    return folder


def _strict(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_model_stands_beside_the_references_by_direction_and_phase(made: Path) -> None:
    scores = evaluate_run(made / "run")
    assert tuple(scores.results) == ("model", *REFERENCES)
    assert scores.region == "tumor"
    for results in scores.results.values():
        assert list(results) == ["A2B", "B2A"]
        for phases in results.values():
            assert list(phases) == ["ART", "PV", "NC", "mean"]
            for cell in phases.values():
                assert all(isinstance(cell[metric], float) for metric in METRICS)
                for metric in ("lpips", "region_lpips", "fid", "kid"):
                    assert cell[metric] is None and "no weights" in cell["reasons"][metric]
    model, copied = (scores.results[arm]["A2B"]["mean"] for arm in ("model", "copy_source"))
    assert model["tpsnr"] != copied["tpsnr"]


def test_lesions_are_audited_against_the_liver_and_counted(made: Path) -> None:
    scores = evaluate_run(made / "run", references=("constant_fill", "copy_source"))
    for direction in ("A2B", "B2A"):
        cells = [scores.results[arm][direction]["mean"] for arm in ("model", "constant_fill", "copy_source")]
        assert len({(cell["n_lesions"], cell["n_unclear_lesions"]) for cell in cells}) == 1
        pairs = pairs_from_folders(made / "data", "test", direction, made / "run" / "test" / direction, organ="liver")
        audits = {pair.name: audit_lesions(pair.real, pair.fake, pair.mask, pair.organ) for pair in pairs}
        assert any(audit.lesions for audit in audits.values())
        scored = [one for one in scores.slices["model"] if one["direction"] == direction]
        for one in scored:
            audit = audits[one["name"]]
            assert one["n_lesions"] == audit.n_clear
            assert [one["scores"][key] for key in ("lost", "inverted", "invented")] == [
                audit.share("lost"),
                audit.share("inverted"),
                audit.share("invented"),
            ]


def test_table_and_numbers_are_written_beside_the_images(made: Path) -> None:
    scores = evaluate_run(made / "run", references=("copy_source",))
    table, *_, metrics = write_scores(made / "run" / "test", scores)
    text = table.read_text(encoding="utf-8")
    assert "| A2B | model |" in text and "| A2B | copy_source |" in text and "LPIPS ↓" not in text
    assert ALEXNET_FILE in text and "roi-progressive weights" in text
    content = _strict(metrics)
    assert content["region"] == "tumor"
    assert [(row["arm"], row["direction"], row["phase"]) for row in content["rows"]] == [
        (arm, way, phase) for arm in scores.results for way in ("A2B", "B2A") for phase in ("ART", "PV", "NC", "mean")
    ]
    assert content["rows"][3]["tpsnr"] == scores.results["model"]["A2B"]["mean"]["tpsnr"]
    assert len(content["slices"]) == len(content["reference_slices"]["copy_source"]) == 2 * 6
    assert content["slices"][0].keys() >= {"name", "patient", "phase", "direction", "region_px", *METRICS}
    assert sorted(path.name for path in (made / "run" / "test").iterdir()) == sorted(
        ["A2B", "B2A", "written.json", *FILES]
    )


def test_uncertainty_is_scored_of_the_model_alone_and_drawn(small_networks: dict[str, Any], own: Path) -> None:
    with pytest.raises(DataError, match="`uncertainty` must be asked of a run with"):
        evaluate_run(own / "run", uncertainty=True)
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=0)
    train(own / "data", own / "sure", options, Config(regions=(), ggd=GGDConfig(weight=1.0)))
    scores = evaluate_run(own / "sure", references=("copy_source",), uncertainty=True)
    files = write_scores(own / "sure" / "test", scores)
    assert [path.name for path in files] == [*FILES, "reliability.png", "reliability.pdf"]
    content = _strict(files[FILES.index("metrics.json")])
    wanted = {"uce", "region_uce", "ause", "region_ause", "sigma_rank", "region_sigma_rank"}
    for row in content["rows"]:
        assert wanted <= row.keys() if row["arm"] == "model" else not wanted & row.keys()
    for of in content["reliability"].values():
        assert sum(point["n"] for point in of["image"]) == 6 * 32**2
        assert list(of) == ["image", "tumor"]
    assert read_slices(own / "sure")[0]["scores"]["ause"] == content["slices"][0]["ause"]
    data = own / "data"
    folders = [
        [str(path / name) for name in names]
        for path, names in (
            (data, ("testB", "testA")),
            (own / "sure" / "test", ("A2B", "B2A")),
            (data, ("testA_tumor", "testB_tumor")),
        )
    ]
    maps = [str(own / "sure" / "test" / f"{direction}_sigma") for direction in ("A2B", "B2A")]
    manifest = data / "manifest.json"
    same = evaluate_folders(*folders, directions=("A2B", "B2A"), manifest=manifest, sigma=maps)
    for direction in ("A2B", "B2A"):
        cells = [rows[direction]["mean"] for rows in (same.results["generated"], scores.results["model"])]
        assert all(cells[0][key] == cells[1][key] for key in wanted)
    text = files[0].read_text(encoding="utf-8")
    assert "UCE ↓" in text and "Spearman" in text and "no sigma was predicted" in text  # of the references
    write_scores(own / "sure" / "test", evaluate_run(own / "sure", references=()))
    assert not any(path.exists() for path in files[len(FILES) :])


def test_identical_pixels_are_infinite_decibels_and_still_json(own: Path) -> None:
    for path in (own / "data" / "testA").iterdir():
        shutil.copy(path, own / "data" / "testB" / path.name)
    *_, metrics = write_scores(own / "run" / "test", evaluate_run(own / "run", references=("copy_source",)))
    content = _strict(metrics)
    first = content["reference_slices"]["copy_source"][0]
    assert first["psnr"] is None and first["reasons"]["psnr"] == "identical pixels"
    [row] = [row for row in content["rows"] if (row["arm"], row["direction"], row["phase"]) == ROW]
    assert row["psnr"] == 100.0


def test_what_is_read_again_is_what_was_written(own: Path) -> None:
    for path in list((own / "data" / "testA").iterdir())[:1]:  # infinite decibels are null in JSON
        shutil.copy(path, own / "data" / "testB" / path.name)
    scores = evaluate_run(own / "run", references=("copy_source",))
    copied = replace(scores, slices={"copy_source": scores.slices["copy_source"]}, results={})
    write_scores(own / "run" / "test", copied)
    expected = [{**one, "fid_features": None} for one in scores.slices["copy_source"]]
    assert any(one["scores"]["psnr"] == math.inf for one in scores.slices["copy_source"])
    for path in (own / "run", own / "run" / "test", own / "run" / "test" / "metrics.json"):
        assert read_slices(path) == expected


@pytest.mark.parametrize("text", [None, "{", "[]", '{"slices": [1]}', '{"slices": [{"name": "x"}]}', '{"arms": {}}'])
def test_what_is_no_evaluation_cannot_be_compared(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"`compare` must be a folder or metrics\.json"):
        read_slices(tmp_path)


def test_the_difference_to_another_evaluation_stands_in_the_table(made: Path) -> None:
    scores = evaluate_run(made / "run", references=("copy_source",))
    others = scores.slices["copy_source"]
    certain = with_certainty(scores, others, seed=3)
    assert list(certain.results) == ["model", "copy_source", "compared", "difference"]
    model, copied, compared, difference = (rows["A2B"]["mean"] for rows in certain.results.values())
    assert compared["tpsnr"] == copied["tpsnr"]
    assert difference["tpsnr"] == pytest.approx(model["tpsnr"] - copied["tpsnr"])
    assert with_certainty(scores, others, seed=3) == certain
    with pytest.raises(DataError, match="same 12 slices"):
        with_certainty(scores, others[1:])
    with pytest.raises(ConfigError, match="`seed` must be"):
        with_certainty(scores, seed=-1)


def test_evaluations_are_compared_in_the_directions_that_both_have_and_it_is_said(made: Path) -> None:
    scores = evaluate_run(made / "run", references=())
    of_one = [scored for scored in scores.slices["model"] if scored["direction"] == "B2A"]
    certain = with_certainty(scores, of_one)
    assert list(certain.results["difference"]) == list(certain.results["compared"]) == ["B2A"]
    assert list(certain.results["model"]) == ["A2B", "B2A"]
    assert certain.notes == ("Compared in B2A alone: the other evaluation has no A2B.",)
    alone = replace(scores, slices={"model": of_one}, results={"model": {"B2A": scores.results["model"]["B2A"]}})
    assert with_certainty(alone, scores.slices["model"]).notes == (
        "Compared in B2A alone: this evaluation has no A2B.",
    )
    other = [scored for scored in scores.slices["model"] if scored["direction"] == "A2B"]
    with pytest.raises(
        DataError, match=r"`compare` must hold the scores of B2A; it holds A2B alone; evaluate the other"
    ):
        with_certainty(alone, other)


def test_the_progress_goes_from_reading_over_translating_to_the_last_score(made: Path) -> None:
    told: list[tuple[int, int, str]] = []
    evaluate_run(made / "run", references=("copy_source",), report=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told) and told[0][0] == 0
    assert {total for _, total, _ in told} == {12 * 4}
    order = list(dict.fromkeys(text for _, _, text in told))
    assert order == ["reading", "translating CT → MR", "translating MR → CT", "scoring model", "scoring copy_source"]


def test_the_region_asked_for_is_the_one_measured(made: Path) -> None:
    tumour, liver = (evaluate_run(made / "run", region=region, references=()) for region in ("tumor", "liver"))
    assert (tumour.region, liver.region) == ("tumor", "liver")
    areas = [[one["region_px"] for one in scores.slices["model"]] for scores in (tumour, liver)]
    assert all(inner < outer for inner, outer in zip(*areas, strict=True))
    with pytest.raises(MaskError, match=r"'kidney'.*regions of the data: liver, tumor"):
        evaluate_run(made / "run", region="kidney")


def test_the_default_region_is_the_tumour_or_the_datas_last(own: Path) -> None:
    data = own / "data"
    assert default_region(data) == "tumor"
    write_json(data / "manifest.json", {**read_json(data / "manifest.json"), "regions": ["liver", "cyst"]})
    assert default_region(data) == "cyst"
    (data / "manifest.json").unlink()
    assert default_region(data) == "tumor"
    for folder in data.glob("*_tumor"):
        shutil.rmtree(folder)
    assert default_region(data) == "liver"
    for folder in data.glob("*_liver"):
        shutil.rmtree(folder)
    with pytest.raises(DataError, match="no mask folder such as trainA_tumor"):
        default_region(data)


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_patient_and_phase_are_read_from_a_manifest_with_or_without_endings(suffix: str, own: Path) -> None:
    path = own / "data" / "manifest.json"
    manifest = read_json(path)
    for entry in manifest["slices"]:
        entry["name"] = entry["name"].removesuffix(".png") + suffix
        entry["patient"] = f"Patient {entry['patient']}"  # not what the file is called
        entry["phase"] = {"ART": "late"}.get(entry["phase"], entry["phase"])
    write_json(path, manifest)
    scores = evaluate_run(own / "run", references=())
    assert {one["patient"] for one in scores.slices["model"]} == {"Patient p002", "Patient p003", "Patient p004"}
    assert set(scores.results["model"]["A2B"]) == {"late", "PV", "NC", "mean"}


def test_without_a_manifest_the_file_names_tell(own: Path) -> None:
    (own / "data" / "manifest.json").unlink()
    scores = evaluate_run(own / "run", references=())
    assert set(scores.results["model"]["A2B"]) == {"ART", "PV", "NC", "mean"}


def test_weights_that_are_not_there_are_an_error_and_broken_ones_a_reason(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`weights` must be a folder"):
        evaluate_run(made / "run", weights_dir=tmp_path / "nowhere")
    (tmp_path / ALEXNET_FILE).write_bytes(b"no weights")
    cell = evaluate_run(made / "run", references=(), weights_dir=tmp_path).results["model"]["A2B"]["mean"]
    assert cell["lpips"] is None and "cannot be loaded" in cell["reasons"]["lpips"]
    assert "no weights" in cell["reasons"]["fid"]


def test_with_alexnets_weights_lpips_is_a_number(made: Path, tmp_path: Path) -> None:
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).net
    weights = {f"features.{key.split('.', 1)[1]}": value for key, value in network.state_dict().items()}
    torch.save(weights, tmp_path / ALEXNET_FILE)
    results = evaluate_run(made / "run", references=("copy_source",), weights_dir=tmp_path).results
    for arm in ("model", "copy_source"):
        assert all(
            cell["lpips"] > 0 < cell["region_lpips"] for phases in results[arm].values() for cell in phases.values()
        )


@pytest.mark.slow
def test_with_inceptions_weights_fid_is_a_number(made: Path, tmp_path: Path) -> None:
    module = pytest.importorskip("pytorch_fid.inception")
    weights: dict[str, Any] = {}

    def keep(self: torch.nn.Module, *_: Any) -> None:
        weights.update(torch.nn.Module.state_dict(self))

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr("torchvision.models.Inception3.load_state_dict", keep, raising=False)
        module.InceptionV3([0])
    torch.save(weights, tmp_path / INCEPTION_FILE)
    results = evaluate_run(made / "run", references=(), weights_dir=tmp_path).results
    assert all(
        cell["fid"] > 0 and cell["kid"] is not None for phases in results["model"].values() for cell in phases.values()
    )


class _BrightestPixel:
    """A plugin with one more column."""

    def __init__(self, name: str) -> None:
        self._name = name

    @hookimpl
    def roi_metrics(self, real: Any, fake: Any, mask: Any) -> dict[str, float]:
        assert real.shape == fake.shape == mask.shape
        return {self._name: float(real[mask].max())}


def test_a_plugins_column_stands_in_the_table(made: Path) -> None:
    scores = evaluate_run(made / "run", references=("copy_source",), plugins=[_BrightestPixel("brightest")])
    for arm in ("model", "copy_source"):
        assert 0 < scores.results[arm]["A2B"]["mean"]["brightest"] <= 255
    *_, metrics = write_scores(made / "run" / "test", scores)
    assert "brightest" in _strict(metrics)["slices"][0]


def test_a_plugins_column_may_not_take_the_name_of_ours(made: Path) -> None:
    with pytest.raises(PluginError, match=r"`roi_metrics`: plugin '.+' returns 'tpsnr', which is taken"):
        evaluate_run(made / "run", references=(), plugins=[_BrightestPixel("tpsnr")])
