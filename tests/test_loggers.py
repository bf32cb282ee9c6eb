"""Losses for the programs in which people watch their trainings, read back with the programs' own readers."""

from __future__ import annotations

import csv
import importlib.util
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roi_progressive import Config, RegionConfig, StageConfig, attach
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.loggers import (
    LOGGERS,
    CSVLogger,
    Logger,
    MLflowLogger,
    TensorBoardLogger,
    WandbLogger,
    curve_name,
    installed,
)
from roi_progressive.runs.folder import history
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runs.validation import validations
from roi_progressive.saving.written import written_names
from roi_progressive.testing import ToyHost, phantom_config

pytestmark = pytest.mark.usefixtures("one_thread")
Curves = dict[str, dict[int, float]]


def of_csv(folder: Path) -> Curves:
    curves: Curves = defaultdict(dict)
    with open(folder / "losses.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert int(row["step"]) not in curves[row["name"]], "a value stands there once"
            curves[row["name"]][int(row["step"])] = float(row["value"])
    return dict(curves)


def of_tensorboard(folder: Path) -> Curves:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def of_wandb(folder: Path) -> Curves:
    """From the offline run's own file, with W&B's own reader."""
    datastore = pytest.importorskip("wandb.sdk.internal.datastore")
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    curves: Curves = defaultdict(dict)
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        store = datastore.DataStore()
        store.open_for_scan(str(path))
        while (data := store.scan_data()) is not None:
            record = records.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                step = int(float(items.pop("step")))
                for name, value in items.items():
                    if not name.startswith("_"):
                        curves[name][step] = float(value)
    return dict(curves)


def of_mlflow(folder: Path) -> Curves:
    module = pytest.importorskip("mlflow.tracking")
    client = module.MlflowClient(tracking_uri=f"sqlite:///{folder.resolve().as_posix()}/mlflow.db")
    [experiment] = [found for found in client.search_experiments() if found.name == "roi-progressive"]
    [run] = client.search_runs([experiment.experiment_id])
    return {
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }


READERS: dict[str, Callable[[Path], Curves]] = {
    "csv": of_csv,
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "mlflow": of_mlflow,
}


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each logger whose program is installed."""
    if request.param != "csv" and importlib.util.find_spec(request.param) is None:
        pytest.skip(f"the extra `{request.param}` is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return str(request.param)


def test_every_logger_has_a_reader_here() -> None:
    assert list(READERS) == list(LOGGERS)


def test_what_a_session_loses_is_what_the_program_shows(name: str, tmp_path: Path) -> None:
    host, found = ToyHost(), dict[int, dict[str, float]]()
    with LOGGERS[name](tmp_path, 2) as logger, attach(host, config=phantom_config(), plugins=[logger]) as session:
        step = 0
        for epoch in range(1, 3):
            stage = session.start_epoch(epoch)
            for batch in host.batches():
                host.step(batch)
                step += 1
                found[step] = session.losses()
    curves = READERS[name](tmp_path)
    assert step > 4 and {f"roi/{loss}" for loss in found[2]} <= curves.keys()
    for loss in found[2]:
        expected = {step: of[loss] for step, of in found.items() if step % 2 == 0}
        assert curves[f"roi/{loss}"] == pytest.approx(expected, rel=1e-6)
    assert curves["roi/stage"] == {step: float(stage.number) for step in found if step % 2 == 0}


def test_the_training_does_not_notice(name: str, tmp_path: Path) -> None:
    """Some of these programs draw names for their runs from Python's own stream."""

    def streams() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state()  # type: ignore[index]

    before = streams()
    with LOGGERS[name](tmp_path, 1) as logger:
        for step in range(1, 4):
            logger.roi_step_finished(step=step, losses={"G_tumor_A2B": torch.tensor(1.0)})
    after = streams()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


def test_numbers_that_are_none_are_logged_as_such(name: str, tmp_path: Path) -> None:
    """Of a step that was left out."""
    if name == "wandb":
        pytest.skip("its reader here takes JSON, in which NaN is a text of W&B's own")
    with LOGGERS[name](tmp_path, 1) as logger:
        logger.roi_step_finished(step=1, losses={"G_tumor_A2B": torch.tensor(math.nan)})
    assert math.isnan(READERS[name](tmp_path)["roi/G_tumor_A2B"][1])


def test_the_last_step_is_written_when_a_logger_is_dropped(name: str, tmp_path: Path) -> None:
    logger = LOGGERS[name](tmp_path, 1)
    logger.roi_step_finished(step=1, losses={"G_tumor_A2B": torch.tensor(0.5)})
    del logger
    assert READERS[name](tmp_path)["roi/G_tumor_A2B"] == {1: 0.5}


def test_nothing_is_written_before_there_is_something_to_write(name: str, tmp_path: Path) -> None:
    with LOGGERS[name](tmp_path / "logs", 10) as logger:
        logger.roi_step_finished(step=1, losses={"G_tumor_A2B": torch.tensor(0.5)})
        assert logger.files() == []
    assert not (tmp_path / "logs").exists()


# -- of a run of the bundled host --------------------------------------------------------------------------------------

CONFIG = Config(
    regions=(RegionConfig("tumor", scales=1, windows_px=(24, 32), base_channels=2),),
    ggd=None,
    stages=StageConfig(joined_by_fraction=None),
    pool_size=2,
)


@pytest.fixture(scope="module")
def options(small_networks: dict[str, Any]) -> dict[str, Any]:
    return {**small_networks, "epochs": 4, "decay_epochs": 0, "batch_size": 2, "validate_every": 2, "log_every": 2}


def test_a_run_logs_the_host_s_losses_ours_and_validations_by_one_count_of_steps(
    name: str, small_data: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(small_data, run, TrainOptions(**options, logger=(name,)), CONFIG)
    curves = READERS[name](run / "logs" / name)
    n_steps = 8  # of two steps an epoch
    assert set(curves["host/cycle_A"]) == set(range(2, n_steps + 1, 2))
    assert set(curves["roi/G_tumor_A2B"]) == {6, 8}, "the tumour joins in epoch 3"
    for line in validations(run):
        for direction, scores in line["scores"].items():
            for key, value in scores.items():
                assert curves[f"val/{key}_{direction}"][2 * line["epoch"]] == pytest.approx(value, rel=1e-6)
    files = {path.relative_to(run).as_posix() for path in (run / "logs").rglob("*") if path.is_file()}
    of_another_hand = {file for file in files if file.endswith(("debug.log", "latest-run"))}  # links of W&B's
    assert files - of_another_hand <= written_names(run)  # type: ignore[operator]


def test_a_resumed_run_goes_on_in_the_same_curves(small_data: Path, options: dict[str, Any], tmp_path: Path) -> None:
    runs = {}
    for stop in (None, 7):
        run = tmp_path / f"run{stop}"

        def report(done: int, total: int, text: str, stop: int | None = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        loggers = ("csv", "tensorboard") if importlib.util.find_spec("tensorboard") else ("csv",)
        settings = TrainOptions(**{**options, "logger": loggers, "log_every": 1, "save_every_epochs": 2})
        if stop is None:
            train(small_data, run, settings, CONFIG)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(small_data, run, settings, CONFIG, report=report)
            assert max(of_csv(run / "logs" / "csv")["host/G_A"]) == 7
            resume(run)
        runs[stop] = {name: READERS[name](run / "logs" / name) for name in loggers}
    assert runs[None] == runs[7]


def test_a_logger_among_the_plugins_of_a_run_gets_all_that_its_own_would(
    small_data: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    with CSVLogger(tmp_path / "mine", every=2) as logger:
        train(small_data, tmp_path / "run", TrainOptions(**options, logger=("csv",)), CONFIG, plugins=[logger])
    assert of_csv(tmp_path / "mine") == of_csv(tmp_path / "run" / "logs" / "csv")
    assert len(history(tmp_path / "run")) == 4


def test_logging_changes_no_bit_of_a_run(
    small_data: Path, options: dict[str, Any], tmp_path: Path, differing: Any
) -> None:
    chosen = tuple(n for n in LOGGERS if n == "csv" or importlib.util.find_spec(n) is not None)
    for name, loggers in (("logged", chosen), ("plain", ())):
        train(small_data, tmp_path / name, TrainOptions(**options, logger=loggers), CONFIG)
    networks = [
        {path.name: torch.load(path, weights_only=True) for path in (tmp_path / name / "networks").glob("*.pth")}
        for name in ("logged", "plain")
    ]
    assert differing(*networks) == []


def test_force_replaces_the_logs_of_the_earlier_run(small_data: Path, options: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(small_data, run, TrainOptions(**options, logger=("csv",)), CONFIG)
    (run / "logs" / "mine.txt").write_text("x", encoding="utf-8")
    train(small_data, run, TrainOptions(**options), force=True)
    assert [path.name for path in (run / "logs").rglob("*")] == ["mine.txt"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TensorBoardLogger, WandbLogger, MLflowLogger])
def test_a_program_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    kind: Callable[[Path], Logger], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"pip install 'roi-progressive\[(tensorboard|wandb|mlflow)\]'"):
        kind(tmp_path)


def test_a_misspelled_logger_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"`logger` must be one of csv, [^\n]+; did you mean 'tensorboard'"):
        TrainOptions(logger=("tensorbord",))
    with pytest.raises(ConfigError, match="`every` must be a whole number of at least 1"):
        CSVLogger("logs", every=0)


def test_a_table_of_another_hand_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text("mine\n", encoding="utf-8")
    with CSVLogger(tmp_path, every=1) as logger:
        logger.log(1, {"a": torch.tensor(1.0)})
        with pytest.raises(DataError, match=r"must hold no other losses\.csv"):
            logger.log(2, {"a": torch.tensor(1.0)})
    assert (tmp_path / "losses.csv").read_text(encoding="utf-8") == "mine\n"


def test_the_programs_are_imported_where_they_are_used() -> None:
    assert curve_name("G_tumor_A2B") == "roi/G_tumor_A2B"
    probe = "import sys, roi_progressive.loggers; print({'tensorboard', 'wandb', 'mlflow'} & set(sys.modules))"
    import subprocess

    assert (
        subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, encoding="utf-8").stdout
        == "set()\n"
    )
