"""A run's folder, opened: what was asked for, whose networks it holds and where its files lie, or one line why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.config import Config, GGDConfig
from roi_progressive.errors import CheckpointError, ConfigError, DataError
from roi_progressive.host import create_model
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.folder import Run, clear, history, truncate_history
from roi_progressive.runs.kept_epochs import saved_epoch
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.translate import translate
from roi_progressive.saving.records import append_json, read_json
from roi_progressive.saving.written import recorded

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = TrainOptions(**small_networks, epochs=2, decay_epochs=1, save_every_epochs=1)
    train(small_data, folder, options, Config(regions=(), ggd=GGDConfig(hidden_channels=2)))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A run to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_an_opened_run_knows_where_everything_lies(trained: Path, small_data: Path) -> None:
    run = Run.open(trained)
    assert (run.folder, run.data, run.epoch, run.last_epoch) == (trained, small_data.resolve(), 3, 3)
    assert run.images("val", "A2B") == trained / "val" / "A2B"
    assert run.sigma("val", "B2A") == trained / "val" / "B2A_sigma"
    assert (run.networks / "3_net_G_A.pth").is_file()
    options = run.host_options(epoch="3")
    assert (options.dataroot, options.checkpoints_dir) == (str(run.data), str(trained))
    assert Run.open(str(trained), epoch=3).epoch == Run.open(trained, epoch="3").epoch == 3


def test_an_epoch_whose_networks_are_gone_is_refused_with_those_that_are_kept(trained: Path) -> None:
    for epoch in (1, "1"):
        with pytest.raises(CheckpointError, match=r"whose networks are kept: 3 \(last\); got 1"):
            Run.open(trained, epoch=epoch)
    with pytest.raises(CheckpointError, match="has no best one: it was not validated; take `last`, or train with"):
        Run.open(trained, epoch="best")
    with pytest.raises(ConfigError, match="`epoch` must be best, last or a number; got 'bset'; did you mean 'best'"):
        Run.open(trained, epoch="bset")


def test_an_opened_run_is_as_good_as_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(folder)
    monkeypatch.setattr(Run, "open", lambda *_, **__: pytest.fail("opened twice"))
    images = translate(run)
    assert images == {direction: run.images("test", direction) for direction in ("A2B", "B2A")}
    assert all(any(run.sigma("test", direction).glob("*.npy")) for direction in images)
    assert evaluate_run(run, references=(), uncertainty=True).images == images


def test_one_command_opens_its_run_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = [], Run.open.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Run], *given: Any, **more: Any) -> Run:
        opened.append(given)
        return real(cls, *given, **more)

    monkeypatch.setattr(Run, "open", classmethod(counted))
    evaluate_run(folder, references=())
    assert len(opened) == 1


def test_a_run_of_an_older_version_is_read(folder: Path) -> None:
    """Its records carry no checksums, and its networks none of the whole file."""
    run = Run.open(folder)
    for path in (folder / "run.json", folder / "networks" / "latest.json"):
        path.write_text(json.dumps(read_json(path)), encoding="utf-8")
    (folder / "history.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in history(folder)), encoding="utf-8"
    )
    for path in run.networks.glob("*.pth"):
        torch.save(torch.load(path, weights_only=True), path)
    assert Run.open(folder) == run
    assert [line["epoch"] for line in history(folder)] == [1, 2, 3]
    translate(folder)


@pytest.mark.parametrize("text", ["7", "{", '{"epoch": "3"}', '{"epoch": true}', "[]"])
def test_a_damaged_pointer_is_an_error_that_says_how_to_mend_it(folder: Path, text: str) -> None:
    (folder / "networks" / "latest.json").write_text(text, encoding="utf-8")
    for read in (Run.open, saved_epoch):
        with pytest.raises(CheckpointError, match=r'is damaged: [^\n]+ or write \{"epoch": N\} into it'):
            read(folder)
    (folder / "networks" / "latest.json").write_text('{"epoch": 3}', encoding="utf-8")
    assert Run.open(folder).epoch == 3


def test_before_the_first_save_there_is_no_epoch(folder: Path) -> None:
    (folder / "networks" / "latest.json").unlink()
    assert saved_epoch(folder) is None
    with pytest.raises(CheckpointError, match="has none yet; train it from the beginning"):
        Run.open(folder)


# -- the history -------------------------------------------------------------------------------------------------------


def test_truncating_the_history_keeps_the_epochs_before(folder: Path) -> None:
    before = history(folder)
    truncate_history(folder, 2)
    assert history(folder) == before[:2]
    append_json(folder / "history.jsonl", before[2])
    assert history(folder) == before


def test_a_history_that_lacks_an_epoch_is_refused(folder: Path) -> None:
    """As where the last line's end was hit: that line looks cut off."""
    path = folder / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-1] + b"*")
    with pytest.raises(DataError, match="must have a line for every epoch up to 3"):
        truncate_history(folder, 3)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="must have a line for every epoch up to 3"):
        truncate_history(folder, 3)


def test_without_a_history_a_run_goes_on(folder: Path) -> None:
    (folder / "history.jsonl").unlink()
    truncate_history(folder, 3)
    assert history(folder) == []


@pytest.mark.parametrize("line", ["[1]", '{"stage": 1}', '{"epoch": "1"}'])
def test_a_line_that_is_no_epoch_s_is_refused(folder: Path, line: str) -> None:
    (folder / "history.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="has a line that is no epoch's"):
        history(folder)


# -- the host's own files ----------------------------------------------------------------------------------------------


def test_networks_keep_their_keys_and_load_in_a_vanilla_torch(trained: Path, small_networks: dict[str, Any]) -> None:
    run = Run.open(trained)
    model = create_model(run.host_options())
    for name in ("G_A", "G_B", "D_A", "D_B"):
        state = torch.load(run.networks / f"3_net_{name}.pth", weights_only=True)
        network = getattr(model, f"net{name}")
        assert list(state) == list(network.state_dict())
        network.load_state_dict(state)


@pytest.mark.parametrize(
    "name", ["networks/7_net_G_A.pth", "networks/latest.json", "samples/epoch_0007.png", "run.json"]
)
def test_what_a_killed_process_was_writing_goes_with_the_run_whatever_was_written_in_between(
    name: str, folder: Path
) -> None:
    path = folder / name
    whole = path.read_bytes() if path.exists() else None
    with recorded(folder, path):
        path.parent.mkdir(exist_ok=True)
        path.with_name(f".{path.name}.4242.tmp").write_bytes(b"half")  # as `written_whole` leaves it when it is killed
        path.write_bytes(whole or b"")
    if whole is None:
        path.unlink()
    mine = path.with_name(f".{path.name}.mine.tmp")
    mine.write_text("mine", encoding="utf-8")
    evaluate_run(folder, references=())
    clear(folder)
    assert {str(left.relative_to(folder)) for left in folder.rglob("*") if left.is_file()} == {
        str(mine.relative_to(folder))
    }
