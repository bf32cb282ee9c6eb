"""A data set that has moved: ``--data`` says where it lies now, and another one under its name is not taken for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from roi_progressive.cli.main import main
from roi_progressive.errors import DataError
from roi_progressive.runs.folder import Run
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def begun(small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and ``run``, stopped after the first of two epochs."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(small_data, folder / "data")
    options = TrainOptions(**small_networks, epochs=2, decay_epochs=0, save_every_epochs=1, device="cpu")

    def stop(done: int, total: int, text: str) -> None:
        if "epoch 2" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder / "data", folder / "run", options, report=stop)
    return folder


@pytest.fixture
def moved(begun: Path, tmp_path: Path) -> Path:
    """The same, copied; the run still names the data where they lay, from where they are gone."""
    shutil.copytree(begun, tmp_path / "all")
    described = read_json(tmp_path / "all" / "run" / "run.json")
    assert described["data"] == str((begun / "data").resolve())
    write_json(tmp_path / "all" / "run" / "run.json", {**described, "data": str(tmp_path / "gone")})
    return tmp_path / "all"


def test_every_command_that_reads_the_data_takes_their_new_place(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = str(moved / "run"), str(moved / "data")
    for command in (["evaluate", run], ["figure", run], ["train", "--out", run, "--resume"]):
        assert main([*command, "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert "must still be there" in said and "say where it lies now with --data DIR" in said
        assert main([*command, "--device", "cpu", "--data", data]) == 0, capsys.readouterr().err
        capsys.readouterr()
    assert Run.open(run).epoch == 2
    assert Run.open(run).data == (moved / "data").resolve(), "a run that went on remembers it"


def test_a_run_that_goes_on_where_its_data_lie_now_is_the_uninterrupted_one(begun: Path, moved: Path) -> None:
    import torch

    resume(moved / "run", data=moved / "data")
    straight = Path(shutil.copytree(begun / "run", moved / "straight"))
    resume(straight)
    for name in ("G_A", "G_B", "D_A", "D_B"):
        one, other = (torch.load(r / "networks" / f"2_net_{name}.pth") for r in (moved / "run", straight))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_data_set_is_refused(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (moved / "run" / "run.json").read_bytes()
    next((moved / "data" / "testA").glob("*.png")).rename(moved / "data" / "testA" / "other.png")
    with pytest.raises(DataError, match=r"trained on, .*gone'; .*data' is another: the names of its images differ"):
        Run.open(moved / "run", data=moved / "data")
    assert main(["train", "--out", str(moved / "run"), "--resume", "--data", str(moved / "data")]) == 2
    assert "is another" in capsys.readouterr().err
    assert (moved / "run" / "run.json").read_bytes() == before


def test_another_manifest_and_what_is_no_folder_are_refused(moved: Path) -> None:
    manifest = moved / "data" / "manifest.json"
    write_json(manifest, {**read_json(manifest), "more": 1})
    with pytest.raises(DataError, match="is another: the manifest differs"):
        Run.open(moved / "run", data=moved / "data")
    with pytest.raises(DataError, match=r"`data` must be the folder of the run's data set; .*nowhere' is no folder"):
        Run.open(moved / "run", data=moved / "nowhere")


def test_a_run_of_an_older_version_that_has_no_fingerprint_takes_what_it_is_given(moved: Path) -> None:
    path = moved / "run" / "run.json"
    described = {key: value for key, value in read_json(path).items() if key not in ("data_fingerprint", "preparation")}
    path.write_text(json.dumps(described), encoding="utf-8")
    assert Run.open(path.parent, data=moved / "data").data == (moved / "data").resolve()


def test_where_the_data_lie_must_go_with_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--real", ".", "--fake", ".", "--out", str(tmp_path / "out"), "--data", "."]
    assert main(["evaluate", *given]) == 2
    assert "`--data` must go with RUN" in capsys.readouterr().err
