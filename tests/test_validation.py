"""Validation while a run trains: its scores are those of ``evaluate``, no training notices, the best epoch stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.config import Config, GGDConfig, RegionConfig, StageConfig
from roi_progressive.data.phantom import make_phantom
from roi_progressive.errors import CheckpointError, ConfigError, DataError, DivergenceError
from roi_progressive.evaluation.metrics import METRICS
from roi_progressive.runs import training_loop
from roi_progressive.runs.best_metric import closeness, metric_to_keep
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.figure import draw_run
from roi_progressive.runs.folder import Run, history
from roi_progressive.runs.kept_epochs import best_epoch, chosen_epoch, saved_epoch
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runs.translate import translate
from roi_progressive.runs.validation import Validator, best_of, is_out_of_patience, validations
from roi_progressive.saving.records import read_json

pytestmark = pytest.mark.usefixtures("one_thread")
GUIDED = Config(
    regions=(RegionConfig("tumor", scales=1, windows_px=(24, 32), base_channels=2),),
    ggd=GGDConfig(hidden_channels=2),
    pool_size=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``small_data``, with a patient of either of two phases to validate on."""
    root = tmp_path_factory.mktemp("validated") / "data"
    make_phantom(root, n_train=4, n_val=2, n_test=3, slices_per_patient=2, size_px=32)
    return root


@pytest.fixture(scope="module")
def options(small_networks: dict[str, Any]) -> TrainOptions:
    """Four epochs, each validated, saved at the last one."""
    return TrainOptions(
        **small_networks,
        **{"epochs": 4, "decay_epochs": 1, "batch_size": 2, "save_every_epochs": 100, "seed": 5, "average_decay": 0.5},
        validate_every=1,
    )


@pytest.fixture(scope="module")
def straight(data: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(data, folder, options, GUIDED)
    return folder


def networks(run: Path) -> dict[str, Any]:
    return {path.name: torch.load(path, weights_only=True) for path in sorted((run / "networks").glob("*.pth"))}


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``values(3.0, 1.0, ...)``: what the validations find, one after the other, in place of scores."""

    def given(*found: float | None) -> None:
        rest: Iterator[float | None] = iter(found)

        def validate(self: Validator, generators: Any, seen: Any = None) -> Mapping[str, Any]:
            return {"metric": self.metric.key, "value": next(rest), "scores": {}}

        monkeypatch.setattr(Validator, "validate", validate)

    return given


# -- the scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", ["best", "last"])
def test_a_validation_finds_what_evaluate_prints(epoch: str, straight: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    number = chosen_epoch(run / "networks", epoch)
    [line] = [line for line in validations(run) if line["epoch"] == number]
    printed = evaluate_run(run, split="val", epoch=epoch, references=()).results["model"]
    assert set(line["scores"]) == set(printed) == {"A2B", "B2A"}
    for direction, scores in line["scores"].items():
        assert {"tpsnr", "tssim", "psnr", "ssim", "texture_ratio", "lost"} <= scores.keys()
        assert scores == {key: printed[direction]["mean"][key] for key in scores}
    assert line["value"] == sum(scores["tpsnr"] for scores in line["scores"].values()) / 2


def test_without_a_moving_average_and_in_floats_it_does_too(options: TrainOptions, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_phantom(data, n_train=2, n_val=1, n_test=1, slices_per_patient=1, size_px=32)
    for domain in "AB":
        for png in sorted((data / f"val{domain}").glob("*.png")):
            _as_floats(png)
    train(data, tmp_path / "run", replace(options, epochs=1, decay_epochs=0, average_decay=0.0))
    [line] = validations(tmp_path / "run")
    printed = evaluate_run(tmp_path / "run", split="val", references=()).results["model"]
    for direction, scores in line["scores"].items():
        assert scores == {key: printed[direction]["mean"][key] for key in scores}


def _as_floats(png: Path) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(png) as image:
        np.save(png.with_suffix(".npy"), np.asarray(image, dtype=np.float32) / 127.5 - 1)
    png.unlink()


def test_a_run_that_is_validated_is_the_run_that_is_not(
    data: Path, options: TrainOptions, straight: Path, tmp_path: Path, differing: Any
) -> None:
    """Neither a random stream nor a weight, a moment or a pool notices."""
    train(data, tmp_path / "run", replace(options, validate_every=0), GUIDED)
    plain, validated = networks(tmp_path / "run"), networks(straight)
    assert plain and differing(plain, {name: validated[name] for name in plain}) == []
    assert history(tmp_path / "run") == history(straight)


def test_networks_of_numbers_that_are_not_finite_are_not_validated(
    data: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.nn.Module()
    nan.forward = lambda source: source * float("nan")  # type: ignore[method-assign, assignment]
    validator = Validator(data, None, torch.device("cpu"))
    with pytest.raises(DivergenceError, match="are infinite or NaN"):
        validator.validate({"A2B": nan, "B2A": nan})


# -- the best epoch ----------------------------------------------------------------------------------------------------


def test_the_best_epoch_stays_beside_the_last(straight: Path) -> None:
    lines = validations(straight)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    best = max(lines, key=lambda line: line["value"])["epoch"]
    assert (best_epoch(straight), saved_epoch(straight)) == (best, 5)
    kept = {name.split("_")[0] for name in networks(straight)}
    assert kept == {str(best), "5"}
    assert Run.open(straight, epoch="best").epoch == Run.open(straight, epoch=best).epoch == best
    assert Run.open(straight).epoch == Run.open(straight, epoch="last").epoch == 5


def test_the_curves_name_what_joins_and_the_best_epoch(
    data: Path, options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(training_loop, "training_curves", lambda *lines, **more: drawn.append(more))
    regions = (RegionConfig("liver", scales=1, windows_px=(24, 32), base_channels=2), *GUIDED.regions)
    train(data, tmp_path / "run", replace(options, save_every_epochs=1), replace(GUIDED, regions=regions))
    assert len(drawn) == 4, "a point is no curve"
    assert {frozenset(more["stages"].items()) for more in drawn} == {frozenset({2: "+ liver", 3: "+ tumor"}.items())}
    assert drawn[-1]["best"] == best_epoch(tmp_path / "run")


def test_commands_take_the_best_epoch(data: Path, options: TrainOptions, tmp_path: Path, values: Any) -> None:
    run = tmp_path / "run"
    values(1.0, 3.0, 2.0, 2.0, 3.0)
    train(data, run, options, GUIDED)
    assert (best_epoch(run), saved_epoch(run)) == (2, 5), "of equals the first"
    images = [_bytes(run, epoch) for epoch in ("best", 2)]
    assert images[0] == images[1] != _bytes(run, "last")
    [of_best] = draw_run(run, epoch="best", directions=("A2B",))
    assert read_json(run / "test" / "A2B" / "written.json")["made_by"]["epoch"] == 2
    assert of_best.files[0].is_file()
    scores = evaluate_run(run, epoch=2, references=())
    assert scores.images["A2B"] == run / "test" / "A2B"


def _bytes(run: Path, epoch: int | str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(translate(run, epoch=epoch)["A2B"].glob("*.png"))]


@pytest.mark.parametrize(
    ("keep", "found", "best"),
    [
        ("best:region_psnr", (1.0, 2.0, 1.5, 1.0, 1.0), 2),
        ("best:lost", (3.0, 2.0, 1.0, 2.0, 3.0), 3),
        ("best:texture_ratio", (0.4, 3.0, 1.2, 0.5, 0.7), 3),
        ("best:psnr", (None, None, None, 1.0, 0.0), 4),
    ],
)
def test_better_is_what_the_metric_says(
    keep: str, found: tuple[float, ...], best: int, data: Path, options: TrainOptions, tmp_path: Path, values: Any
) -> None:
    values(*found)
    train(data, tmp_path / "run", replace(options, keep=keep))
    assert best_epoch(tmp_path / "run") == best
    assert {line["metric"] for line in validations(tmp_path / "run")} == {metric_to_keep(keep).key}  # type: ignore[union-attr]


def test_keeping_the_last_alone_validates_all_the_same(data: Path, options: TrainOptions, tmp_path: Path) -> None:
    train(data, tmp_path / "run", replace(options, keep="last", epochs=2, decay_epochs=0))
    assert len(validations(tmp_path / "run")) == 2
    assert best_epoch(tmp_path / "run") is None and {n[0] for n in networks(tmp_path / "run")} == {"2"}


# -- stopped, and gone on with -----------------------------------------------------------------------------------------


def _stopping_at(step: int) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, text: str) -> None:
        if done == step and "validating" not in text:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("step", [5, 9])
def test_a_resumed_run_is_the_uninterrupted_one_validations_included(
    step: int, data: Path, options: TrainOptions, straight: Path, tmp_path: Path, differing: Any
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(data, run, options, GUIDED, report=_stopping_at(step))
    torch.manual_seed(123)
    resume(run)
    assert differing(networks(run), networks(straight)) == []
    for name in ("validation.jsonl", "history.jsonl", "networks/best.json", "networks/latest.json", "run.json"):
        assert (run / name).read_bytes() == (straight / name).read_bytes(), name


def test_a_best_epoch_that_was_saved_but_not_pointed_at_is_found_again(
    data: Path, options: TrainOptions, straight: Path, tmp_path: Path
) -> None:
    """A process killed between the two pointers leaves the older best one."""
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    best = best_epoch(run)
    (run / "networks" / "best.json").unlink()
    resume(run)
    assert best_epoch(run) == best
    assert {name.split("_")[0] for name in networks(run)} == {str(best), "5"}


def test_a_run_whose_best_networks_are_gone_is_not_gone_on_with(
    data: Path, options: TrainOptions, tmp_path: Path, values: Any
) -> None:
    run = tmp_path / "run"
    values(1.0, 3.0, 2.0, 2.0, 2.0)
    train(data, run, options)
    (run / "networks" / "2_average_G_A.pth").unlink()
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(CheckpointError, match="2_average_G_A"):
        resume(run)
    assert sorted(path.name for path in run.rglob("*")) == before


def test_a_run_that_lacks_a_validation_is_not_gone_on_with(straight: Path, tmp_path: Path) -> None:
    """The best epoch would be told by the others, and its networks be removed."""
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"*")):
        run = Path(shutil.copytree(straight, tmp_path / "run", dirs_exist_ok=True))
        spoil(run / "validation.jsonl")
        before = sorted(path.name for path in run.rglob("*"))
        with pytest.raises(DataError, match="must have a line for every 1 epochs up to 5, and lacks one"):
            resume(run)
        assert sorted(path.name for path in run.rglob("*")) == before


def test_force_removes_what_validation_left(data: Path, options: TrainOptions, tmp_path: Path) -> None:
    run, once = tmp_path / "run", replace(options, epochs=2, decay_epochs=0)
    train(data, run, once)
    train(data, run, replace(once, validate_every=0), force=True)
    assert validations(run) == [] and best_epoch(run) is None
    assert not (run / "validation.jsonl").exists() and not (run / "networks" / "best.json").exists()


# -- patience ----------------------------------------------------------------------------------------------------------


def line(epoch: int, value: float | None, *, in_last_stage: bool = True, metric: str = "tpsnr") -> dict[str, Any]:
    return {"epoch": epoch, "value": value, "in_last_stage": in_last_stage, "metric": metric, "scores": {}}


def test_patience_is_over_when_so_many_validations_brought_nothing() -> None:
    lines = [line(1, 2.0), line(2, 3.0), line(3, 1.0), line(4, None), line(5, 3.0)]
    assert [is_out_of_patience(lines[:n], 2) for n in range(6)] == [False, False, False, False, True, True]
    assert [is_out_of_patience(lines, n) for n in (0, 1, 3, 4)] == [False, True, True, False]


def test_validations_before_the_last_stage_do_not_try_patience() -> None:
    lines = [line(1, 9.0, in_last_stage=False), *(line(n, 1.0, in_last_stage=n > 4) for n in range(2, 7))]
    assert not is_out_of_patience(lines[:5], 2)
    assert is_out_of_patience(lines, 2)


def test_a_run_that_ran_out_of_patience_is_finished_and_says_so(
    data: Path, options: TrainOptions, tmp_path: Path, values: Any
) -> None:
    run = tmp_path / "run"
    values(1.0, 3.0, 2.0, 2.0, 9.0)
    train(data, run, replace(options, patience=2, epochs=8))
    opened = Run.open(run)
    assert (opened.epoch, opened.is_finished, best_epoch(run)) == (4, True, 2)
    assert opened.ended == read_json(run / "networks" / "latest.json")["ended"] == "no better tpsnr in 2 validations"
    assert len(history(run)) == len(validations(run)) == 4
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    resume(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files


def test_no_run_ends_before_its_last_stage_was_heard(
    data: Path, options: TrainOptions, tmp_path: Path, values: Any
) -> None:
    """The tumour joins in the second half: an end before would be a run that was never guided."""
    values(*range(9, 0, -1))
    late = replace(GUIDED, ggd=None, stages=StageConfig(joined_by_fraction=None))
    train(data, tmp_path / "run", replace(options, patience=1, epochs=6, decay_epochs=0), late)
    assert [line["in_last_stage"] for line in validations(tmp_path / "run")] == [False, False, False, True]
    assert Run.open(tmp_path / "run").epoch == 4


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [metric.key for metric in METRICS])
def test_every_metric_can_be_kept_by_but_those_of_sigma(key: str) -> None:
    [metric] = [metric for metric in METRICS if metric.key == key]
    if metric.needs == "sigma":
        with pytest.raises(ConfigError, match="is one of the predicted sigma"):
            metric_to_keep(f"best:{key}")
    else:
        assert metric_to_keep(f"best:{key}") is metric
        worse, better = {"up": (1.0, 2.0), "down": (2.0, 1.0), "1": (3.0, 0.9)}[metric.better or "up"]
        assert closeness(key, better) > closeness(key, worse)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validate_every": 1, "keep": "best:psrn"}, "no metric 'psrn'; did you mean 'psnr'"),
        ({"validate_every": 1, "keep": "bets:psnr"}, "must be last or best:METRIC; got 'bets:psnr'"),
        ({"keep": "best:psnr"}, "`keep` must go with `validate_every`"),
        ({"patience": 3}, "`patience` must go with `validate_every`"),
        ({"validate_every": 1, "keep": "last", "patience": 3}, "`patience` must go with a best epoch"),
        ({"validate_every": -1}, "`validate_every` must be a whole number"),
    ],
)
def test_a_wrong_choice_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainOptions(**given)
    assert "\n" not in str(caught.value)


def test_data_that_cannot_be_validated_on_are_told_before_the_first_step(
    data: Path, options: TrainOptions, tmp_path: Path
) -> None:
    without = Path(shutil.copytree(data, tmp_path / "without"))
    for folder in without.glob("val*"):
        shutil.rmtree(folder)
    unpaired = Path(shutil.copytree(data, tmp_path / "unpaired"))
    next((unpaired / "valA").glob("*.png")).unlink()
    for root in (without, unpaired):
        with pytest.raises(DataError, match=r"`validate_every` needs paired slices [^\n]+ prepare some, or leave it"):
            train(root, tmp_path / "run", options)
    for keep, why in (("best:lpips", "weights"), ("best:fid", "weights")):
        with pytest.raises(ConfigError, match=f"`keep` must be a metric that can be computed here; [^\n]*{why}"):
            train(data, tmp_path / "run", replace(options, keep=keep))
    assert not (tmp_path / "run").exists()


def test_a_metric_that_no_slice_has_is_told_before_the_first_step(
    data: Path, options: TrainOptions, tmp_path: Path
) -> None:
    from PIL import Image

    healthy = Path(shutil.copytree(data, tmp_path / "healthy"))
    for mask in healthy.glob("val?_tumor/*.png"):
        Image.new("L", (32, 32)).save(mask)
    with pytest.raises(ConfigError, match=r"the slices of val have; they have no tpsnr: no region in the slice"):
        train(healthy, tmp_path / "run", options)
    train(healthy, tmp_path / "run", replace(options, keep="best:psnr", epochs=1, decay_epochs=0))


@pytest.mark.parametrize("text", ["[1]", '{"epoch": 1}', '{"epoch": 1, "metric": "psnr", "value": "x"}'])
def test_a_line_that_is_no_validation_s_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="has a line that is no validation's"):
        validations(tmp_path)


def test_a_changed_value_is_found_by_its_checksum(straight: Path, tmp_path: Path) -> None:
    lines = (straight / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    lines[0] = lines[0].replace(f'"value": {first["value"]}', '"value": 99.0')
    (tmp_path / "validation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="its checksum does not match"):
        validations(tmp_path)
    assert best_of([]) is None
