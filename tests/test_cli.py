"""The command line: every user's mistake is one line and status 2, and nothing of the user's is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roi_progressive import __version__
from roi_progressive.cli.main import main
from roi_progressive.cli.parser import COMMANDS, parser
from roi_progressive.data.options import PrepareOptions
from roi_progressive.runs.options import TrainOptions
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")
PATIENCE_S = 600  # for a busy machine; a quiet one needs seconds
TOML = '[[regions]]\nname = "tumor"\nscales = 2\nwindows_px = [24]\nbase_channels = 2\n[ggd]\nhidden_channels = 2\n'


@pytest.fixture(scope="module")
def small(small_networks: dict[str, Any]) -> list[str]:
    """What makes a training one epoch of small networks."""
    sizes = [word for name, value in small_networks.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [*sizes, "--epochs", "1", "--decay-epochs", "0"]


@pytest.fixture(scope="module")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--data", str(small_data), "--out", str(out), "--no-regions", *small]) == 0
    return out


@pytest.fixture
def data(small_data: Path, tmp_path: Path) -> Path:
    """Data to spoil, with none to validate."""
    return Path(shutil.copytree(small_data, tmp_path / "data", ignore=shutil.ignore_patterns("val*")))


@pytest.fixture
def run(trained: Path, data: Path, tmp_path: Path) -> Path:
    """A run to spoil, on data to spoil."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    write_json(folder / "run.json", {**read_json(folder / "run.json"), "data": str(data)})
    return folder


def _snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def _fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command fails with."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as error:  # argparse's own
        status = int(error.code or 0)
    shown = capsys.readouterr()
    assert status == 2, shown
    assert shown.err.startswith("roi-progressive: error: ") and shown.err.count("\n") == 1, shown.err
    assert shown.out == ""
    return shown.err


def _first(folder: Path) -> Path:
    return sorted(folder.glob("*.png"))[0]


def _grey(path: Path, width_px: int, height_px: int) -> None:
    Image.fromarray(np.zeros((height_px, width_px), dtype=np.uint8)).save(path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _shrink(data: Path, side_px: int) -> None:
    for path in data.rglob("*.png"):
        Image.open(path).resize((side_px, side_px), Image.Resampling.NEAREST).save(path)


SPOILT_DATA: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no training folder of a domain": (lambda d: shutil.rmtree(d / "trainB"), "trainB' is missing"),
    "empty training folder": (lambda d: [p.unlink() for p in (d / "trainA").iterdir()], "trainA' is empty"),
    "a folder without images": (
        lambda d: [p.rename(p.with_suffix(".txt")) for p in (d / "trainA").iterdir()],
        "must hold images in",
    ),
    "no mask folder": (lambda d: shutil.rmtree(d / "trainB_tumor"), "no mask folder"),
    "no mask of one image": (lambda d: _first(d / "trainB_tumor").unlink(), "no mask file"),
    "a mask of another size": (lambda d: _grey(_first(d / "trainA_tumor"), 32, 30), "must be of its image's size"),
    "a truncated mask": (lambda d: _truncate(_first(d / "trainB_tumor")), "`tumor` mask '"),
    "a mask that is no picture": (
        lambda d: _first(d / "trainB_tumor").write_text("mask", encoding="utf-8"),
        "`tumor` mask '",
    ),
    "a truncated image": (lambda d: _truncate(_first(d / "trainB")), "readable images"),
    "an image that is no picture": (
        lambda d: _first(d / "trainA").write_text("image", encoding="utf-8"),
        "readable images",
    ),
    "an image of 16 bits": (
        lambda d: Image.fromarray(np.zeros((32, 32), dtype=np.uint16)).save(_first(d / "trainA")),
        "8 bits",
    ),
    "an image of another size": (
        lambda d: [_grey(_first(d / f"trainA{s}"), 40, 32) for s in ("", "_tumor")],
        "images of one size",
    ),
    "no region at all": (
        lambda d: [(d / "manifest.json").unlink(), *(shutil.rmtree(p) for p in d.glob("*_*"))],
        "must have a region",
    ),
    "images too small": (lambda d: _shrink(d, 8), "8 x 8 px do not suit"),
}


@pytest.mark.parametrize("what", SPOILT_DATA)
def test_train_says_in_one_line_what_is_wrong_with_the_data(
    what: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small: list[str]
) -> None:
    spoil, said = SPOILT_DATA[what]
    spoil(data)
    before = _snapshot(tmp_path)
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), *small, "--depth", "4"]
    assert said in _fails(arguments, capsys)
    assert _snapshot(tmp_path) == before and not (tmp_path / "run").exists()


WRONG_TOML = {
    'regions = ["tumor"]': "`regions[0]` must be a table",
    "[[region]]\nname = 'tumor'": "did you mean `regions`?",
    "[[regions]]\nname = 'tumor'\nwieght = 2": "did you mean `weight`?",
    "[[regions]]\nname = 'tumor'\nroi_mode = 'crops'": "did you mean 'crop'?",
    "[[regions]]\nname = 'tumor'\nweight = -1": "must be a number of at least 0",
    "[[regions]]\nname = 'tumor'\nscales = 'three'": "must be a whole number",
    "[[regions]]\nname = 'tumour'": "trainA_tumour",
    "[stages]\nfrom_epochs = [1, 2, 3]": "from_epochs",
    "[ggd]\nshape_range = [3, 1]": "rising",
    "ggd = true": "`ggd` must be a table",
    "regions = tumor": "must be a TOML file",
    "\x00\xff": "must be a TOML file",
}


@pytest.mark.parametrize("text", WRONG_TOML)
def test_train_says_in_one_line_what_is_wrong_with_the_configuration(
    text: str, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small: list[str]
) -> None:
    (tmp_path / "roi.toml").write_text(text, encoding="latin-1")
    arguments = ["train", "--data", str(small_data), "--out", str(tmp_path / "run"), *small]
    assert WRONG_TOML[text] in _fails([*arguments, "--config", str(tmp_path / "roi.toml")], capsys)
    assert not (tmp_path / "run").exists()


WRONG_OPTIONS = {
    "train --data DATA": "required: --out",
    "train --out OUT": "`--data` must be given",
    "train --data NOWHERE --out OUT": "does not exist",
    "train --data FILE --out OUT": "is a file",
    "train --data DATA --out FILE": "must be a new or empty folder",
    "train --data DATA --out FILE --force": "must be a new or empty folder",
    "train --data DATA --out FILE/run --no-regions": "must be a folder that can be written",
    "train --data DATA --out FULL": "must be a new or empty folder",
    "train --data DATA --out OUT --config NOWHERE": "readable TOML file",
    "train --data DATA --out OUT --config DATA": "readable TOML file",
    "train --data DATA --out OUT --config TOML --no-regions": "must not be given together",
    "train --data DATA --out OUT --epochs -1": "`epochs` must be a whole number between 0",
    "train --data DATA --out OUT --epochs five": "invalid int value",
    "train --data DATA --out OUT --epochs 1.5": "invalid int value",
    "train --data DATA --out OUT --epochs 0 --decay-epochs 0": "must not both be 0",
    "train --data DATA --out OUT --batch-size 0": "`batch_size` must be a whole number between 1",
    "train --data DATA --out OUT --channels 0": "`channels` must be",
    "train --data DATA --out OUT --depth 0": "`depth` must be",
    "train --data DATA --out OUT --depth 99": "`depth` must be",
    "train --data DATA --out OUT --discriminator-layers -2": "`discriminator_layers` must be",
    "train --data DATA --out OUT --save-every-epochs 0": "`save_every_epochs` must be",
    "train --data DATA --out OUT --learning-rate -1": "`learning_rate` must be",
    "train --data DATA --out OUT --learning-rate nan": "`learning_rate` must be",
    "train --data DATA --out OUT --learning-rate fast": "invalid float value",
    "train --data DATA --out OUT --identity inf": "`identity` must be",
    "train --data DATA --out OUT --cycle -1": "`cycle` must be",
    "train --data DATA --out OUT --seed -1": "`seed` must be",
    "train --data DATA --out OUT --seed 99999999999999999999": "`seed` must be",
    "train --data DATA --out OUT --workers -1": "`workers` must be",
    "train --data DATA --out OUT --threads 0": "`threads` must be",
    "train --data DATA --out OUT --generator vgg": "invalid choice",
    "train --data DATA --out OUT --regions tumor": "unrecognized arguments",
    "train --out NOWHERE --resume": "is no folder",
    "train --out FULL --resume": "has no run.json",
    "train --out FILE --resume": "is no folder",
    "train --out RUN --resume --data FULL": "is another: the names of its images differ",
    "train --out RUN --resume --data NOWHERE": "`data` must be the folder of the run's data set",
    "train --out RUN --resume --config FILE": "got --config too",
    "train --out RUN --resume --epochs 9 --no-flip": "got --no-flip, --epochs too",
    "evaluate": "must have RUN, or --real, --fake, --out and most often --masks; got neither",
    "evaluate --real DATA --out OUT": "lacks --fake; add them",
    "evaluate RUN --out OUT --force": "got RUN and --out, --force",
    "evaluate --split val --real DATA --fake DATA --masks DATA --out OUT": "`--split` must go with RUN",
    "evaluate --real NOWHERE --fake DATA --masks DATA --out OUT": "`real` must be a folder of images",
    "evaluate --real DATA/testA --fake FULL --masks DATA --out OUT": "`fake` must hold images",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/trainA_tumor --out OUT": "`masks` must hold the names",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out FULL": "holds files",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out FILE --force": "is a file",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --white 0": "`white` must be",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --manifest FILE": "manifest",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --direction A2B B2A": "got 1 for",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --direction A2C": "invalid choice",
    "evaluate NOWHERE": "is no folder",
    "evaluate FILE": "is no folder",
    "evaluate FULL": "has no run.json",
    "evaluate RUN --region kidney": "regions of the data: liver, tumor",
    "evaluate RUN --split val": "valA, which is missing",
    "evaluate RUN --split train": "invalid choice",
    "evaluate RUN --data FULL": "is another: the names of its images differ",
    "evaluate --data DATA": "must have RUN",
    "figure RUN --data NOWHERE": "`data` must be the folder of the run's data set",
    "evaluate RUN --uncertainty": "must be asked of a run with [ggd]",
    "evaluate RUN --organs DATA": "got RUN and --organs",
    "evaluate RUN --sigma DATA": "got RUN and --sigma",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --uncertainty": "give their maps",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --sigma NOWHERE": "not a folder",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --sigma DATA": "lacks",
    "evaluate --real DATA/testA --fake DATA/testB --masks DATA/testA_tumor --out OUT --sigma DATA DATA": "2 for --sig",
    "evaluate RUN --compare NOWHERE": "`compare` must be a folder or metrics.json",
    "evaluate RUN --compare FILE": "`compare` must be a folder or metrics.json",
    "evaluate RUN --seed -1": "`seed` must be",
    "evaluate RUN --weights NOWHERE": "`weights` must be a folder",
    "evaluate RUN --weights FILE": "`weights` must be a folder",
    "figure": "required: RUN",
    "figure NOWHERE": "is no folder",
    "figure RUN --patient nobody": "`patient` must be one whose slices show 'tumor'",
    "figure RUN --region kidney": "needs the mask folder",
    "figure RUN --split val": "valA, which is missing",
    "figure RUN --sigma": "must go with a run that has uncertainty heads",
    "figure RUN --direction A2B A2B": "each once; got A2B, A2B",
    "figure RUN --out FILE": "must be a folder that can be written",
    "demo --out FULL": "must be a new or empty folder",
    "demo --out FILE": "must be a new or empty folder",
    "demo --out FILE/demo": "must be a folder that can be written",
    "demo --out OUT --epochs 0": "`epochs` must be",
    "demo --out OUT --processes 0": "`processes` must be",
    "demo --out OUT --seed -3": "`seed` must be",
    "demo --out OUT --seed one": "invalid int value",
    "demo --out OUT --weights NOWHERE": "`weights` must be a folder",
    "prepare": "required: manifest, out",
    "prepare NOWHERE OUT": "NOWHERE",
    "prepare DATA OUT": "DATA",
    "prepare FILE OUT": "lacks the column",
    "prepare FILE OUT --size 0": "`size_px` must be",
    "prepare FILE OUT --size big": "invalid int value",
    "prepare FILE OUT --ct-window 0 40": "`ct_window` must be",
    "prepare FILE OUT --mr-steps polish": "invalid choice",
    "prepare FILE OUT --ct-window 400": "expected 2 arguments",
    "prepare FILE OUT --split 0.5 0.5 -1": "split",
    "prepare FILE OUT --field-of-view -1": "`field_of_view_mm` must be",
    "play": "invalid choice",
    "trian": "did you mean train?",
    "train --data DATA --out OUT --ephocs 3": "unrecognized arguments: --ephocs 3; did you mean --epochs?; see",
    "train --out RUN --resume --ephocs 3": "did you mean --epochs?",
    "train --data DATA --ouut OUT": "required: --out; --ouut is no option; did you mean --out?",
    "train --hlep": "--hlep is no option; did you mean --help?",
    "figure RUN --sgima": "did you mean --sigma?",
    "figure RUN --direction A2C": "did you mean A2B?",
    "evaluate RUN --columns tspnr": "`columns` must be one of tpsnr, tssim, psnr",
    "evaluate RUN --columns psnr tspnr": "got 'tspnr'; did you mean 'tpsnr'?",
    "weights --weights NOWHERE": "`weights` must be a folder with alexnet-owt-7be5be79.pth",
    "completion fish": "invalid choice",
    "": "required: COMMAND",
}


@pytest.mark.parametrize("typed", WRONG_OPTIONS)
def test_a_wrong_option_is_said_in_one_line_and_nothing_is_touched(
    typed: str, data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small: list[str]
) -> None:
    places = {name: tmp_path / name.lower() for name in ("DATA", "RUN", "OUT", "NOWHERE", "FULL", "FILE", "TOML")}
    places["FULL"].mkdir()
    (places["FULL"] / "letter.txt").write_text("mine", encoding="utf-8")
    places["FILE"].write_text("mine", encoding="utf-8")
    places["TOML"].write_text(TOML, encoding="utf-8")
    before = _snapshot(tmp_path)
    said = WRONG_OPTIONS[typed]
    arguments = []
    for word in typed.split():
        first, slash, rest = word.partition("/")
        arguments.append(f"{places[first]}{slash}{rest}" if first in places else word)
    if arguments[:1] == ["train"] and "--resume" not in arguments:
        arguments[1:1] = small
    assert (str(places[said]) if said in places else said) in _fails(arguments, capsys)
    assert _snapshot(tmp_path) == before and not places["OUT"].exists()


def _edit_options(run: Path, **changes: Any) -> None:
    described = read_json(run / "run.json")
    write_json(run / "run.json", {**described, "options": {**described["options"], **changes}})


SPOILT_RUNS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no data any more": (lambda r: shutil.rmtree(r.parent / "data"), "must still be there"),
    "run.json that is no JSON": (
        lambda r: (r / "run.json").write_text("{", encoding="utf-8"),
        "run.json' cannot be used",
    ),
    "run.json that is a list": (
        lambda r: (r / "run.json").write_text("[1]", encoding="utf-8"),
        "run.json' cannot be used",
    ),
    "run.json without options": (
        lambda r: (r / "run.json").write_text("{}", encoding="utf-8"),
        "run.json' cannot be used",
    ),
    "run.json of wrong options": (lambda r: _edit_options(r, depth="x"), "`depth` must be"),
    "other networks": (lambda r: _edit_options(r, channels=3), "same networks"),
    "no checkpoint": (lambda r: shutil.rmtree(r / "networks"), "must hold a saved epoch"),
    "no networks": (lambda r: [p.unlink() for p in r.glob("networks/*_net_*")], "must name a saved checkpoint"),
    "a damaged network": (lambda r: _truncate(r / "networks" / "1_net_G_A.pth"), "is damaged"),
    "a wrong pointer": (
        lambda r: (r / "networks" / "latest.json").write_text('{"epoch": 7}', encoding="utf-8"),
        "saved checkpoint",
    ),
    "a damaged pointer": (
        lambda r: (r / "networks" / "latest.json").write_text("7", encoding="utf-8"),
        "must hold a saved epoch",
    ),
}


@pytest.mark.parametrize("command", ["evaluate", "resume"])
@pytest.mark.parametrize("what", SPOILT_RUNS)
def test_a_spoilt_run_is_said_in_one_line_and_nothing_is_touched(
    what: str, command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = SPOILT_RUNS[what]
    _edit_options(run, epochs=9)
    spoil(run)
    before = _snapshot(run.parent)
    arguments = ["evaluate", str(run)] if command == "evaluate" else ["train", "--out", str(run), "--resume"]
    assert said in _fails(arguments, capsys)
    assert _snapshot(run.parent) == before


def test_a_damaged_checkpoint_of_ours_is_said_when_the_run_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit_options(run, epochs=9)
    _truncate(run / "networks" / "1_roi_progressive.pth")
    assert "is damaged" in _fails(["train", "--out", str(run), "--resume"], capsys)
    (run / "networks" / "1_roi_progressive.pth").unlink()
    assert "there is no" in _fails(["train", "--out", str(run), "--resume"], capsys)


SPOILT_TESTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an unpaired test set": (lambda d: _first(d / "testB").unlink(), "lacks"),
    "no test folder": (lambda d: shutil.rmtree(d / "testB"), "testB, which is missing"),
    "a missing test mask": (lambda d: _first(d / "testA_tumor").unlink(), "lacks"),
    "a truncated test image": (lambda d: _truncate(_first(d / "testB")), "cannot be read"),
    "a damaged manifest": (lambda d: (d / "manifest.json").write_text("{", encoding="utf-8"), "manifest"),
    "no training images for the references": (lambda d: shutil.rmtree(d / "trainB"), "trainB"),
    "a test image of another size": (lambda d: _grey(_first(d / "testB"), 36, 32), "must have the size"),
}


@pytest.mark.parametrize("what", SPOILT_TESTS)
def test_evaluate_says_in_one_line_what_is_wrong_with_the_test_data(
    what: str, run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = SPOILT_TESTS[what]
    spoil(data)
    before = _snapshot(run)
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    shown = capsys.readouterr()
    line = shown.err.splitlines()[-1]  # some faults come to light after the bar has begun
    assert line.startswith("roi-progressive: error: ") and said in line and "Traceback" not in shown.err
    assert re.fullmatch(r"(device: cpu .*\n)?", shown.out)
    left = _snapshot(run)
    assert {name: left[name] for name in before} == before
    assert not {"test/table.md", "test/metrics.json"} & left.keys()


def test_from_data_to_table(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small: list[str]
) -> None:
    (tmp_path / "roi.toml").write_text(TOML, encoding="utf-8")
    run = tmp_path / "run"
    train = ["train", "--data", str(small_data), "--out", str(run), *small, "--config", str(tmp_path / "roi.toml")]
    assert main([*train, "--no-flip", "--cycle", "5"]) == 0
    shown = capsys.readouterr()
    assert f"roi-progressive evaluate {run}" in shown.out
    assert "100%" in shown.err and "stage 2 (whole + ggd + tumor)" in shown.err.replace("tumor + ggd", "ggd + tumor")
    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert described["options"]["flip"] is False and described["options"]["cycle"] == 5.0
    assert described["config"]["regions"][0]["windows_px"] == [24]
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr()
    for word in ("model", "constant_fill", "copy_source", "mean_image", "A2B", "B2A", "ART", "PV", "NC", "Left out"):
        assert word in shown.out
    assert "alexnet" in shown.out  # why LPIPS is not there
    assert max(map(len, shown.out.splitlines())) <= 100 or str(run) in max(shown.out.splitlines(), key=len)
    assert "note: " not in shown.err and "100%" in shown.err
    for name in ("table.md", "table.csv", "table.tex", "slices.csv", "patients.csv", "metrics.json"):
        assert (run / "test" / name).is_file() and name in shown.out
    assert main(["evaluate", str(run), "--compare", str(run), "--uncertainty", "--wide"]) == 0
    shown = capsys.readouterr()
    (titles,) = [line for line in shown.out.splitlines() if "TPSNR ↑" in line]
    assert len(titles) > 100 and "invented ↓" in titles and "UCE ↓" in titles, "one line a row"
    assert "difference" in shown.out and "UCE ↓" in shown.out
    assert "reliability.png" in shown.out and (run / "test" / "reliability.pdf").is_file()
    assert f"note: they replace those of an earlier evaluation in {run / 'test'}" in shown.err


def test_train_says_how_many_epochs_there_are_and_that_it_mirrors_where_that_was_not_chosen(
    small_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    small: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("roi_progressive.runs.train.train", lambda *_, report, **__: report(1, 1, "epoch 1"))
    monkeypatch.setattr("roi_progressive.cli.train_command._what_now", lambda folder: "")
    train = ["train", "--data", str(small_data), "--out", str(tmp_path / "run")]

    def notes(*options: str) -> list[str]:
        capsys.readouterr()
        assert main([*train, *options]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]

    epochs, mirrored = notes("--epochs", "0")
    assert epochs.startswith(
        "note: 0 epochs at the full learning rate, then 100 over which it falls to zero, 100 in all"
    )
    assert "--decay-epochs" in epochs
    assert (
        mirrored.startswith("note: images are mirrored at random, left to right; for an abdomen")
        and "--no-flip" in mirrored
    )
    assert notes("--epochs", "0", "--decay-epochs", "5", "--no-flip") == []


def test_without_a_configuration_the_tumour_is_guided(small_data: Path, tmp_path: Path, small: list[str]) -> None:
    assert main(["train", "--data", str(small_data), "--out", str(tmp_path / "run"), *small]) == 0
    described = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert [region["name"] for region in described["config"]["regions"]] == ["tumor"]


def test_the_defaults_in_the_help_are_the_options_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in fields(TrainOptions):
        if not isinstance(field.default, bool):
            in_words = {"keep": "best:region_psnr", "logger": "none", "neighbours": "as many as the data have"}
            flag, default = f"--{field.name.replace('_', '-')} ", in_words.get(field.name, field.default)
            number = f"{default:g}" if isinstance(default, float) and default >= 1 else str(default)
            text = shown.rpartition(flag)[2].partition(" --")[0]
            assert f"({number.replace('2e-04', '0.0002')})" in text, field.name
    chosen, options = parser().parse_args(["prepare", "list.csv", "out"]), PrepareOptions()
    assert (chosen.size, chosen.seed, chosen.align) == (options.size_px, options.split_seed, options.align)
    assert (chosen.ct_window, chosen.mr_percentiles) == (options.ct_window, options.mr_percentiles)
    assert (chosen.slices_each_side, chosen.split) == (options.slices_each_side, options.split)
    assert chosen.neighbours == options.neighbours
    assert (chosen.field_of_view, chosen.mr_steps) == (options.field_of_view_mm, options.mr_steps)


@pytest.mark.parametrize("typed", ["--ct-window {}", "--ct-window={}"])
def test_a_window_has_a_name_or_two_numbers(typed: str) -> None:
    ends = {"soft": (-160, 240), "bone": (-500, 1300), "full": (-1024, 3071)}
    for name, (low, high) in ends.items():
        for words in (
            ["list.csv", "out", *typed.format(name).split()],
            [*typed.format(name).split(), "list.csv", "out"],
        ):
            chosen = parser().parse_args(["prepare", *words])
            width, level = chosen.ct_window
            assert (level - width / 2, level + width / 2, str(chosen.out)) == (low, high, "out")
    with pytest.raises(SystemExit):
        parser().parse_args(["prepare", "list.csv", "out", *typed.format("sof").split()])


def test_prepare_hands_every_option_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("roi_progressive.data.prepare.prepare", lambda *args, **kwargs: seen.append((args, kwargs)))
    typed = "prepare list.csv out --size 64 --ct-window 300 50 --mr-percentiles 1 99 --slices-each-side 2 --split 8 1 1"
    assert (
        main(
            [
                *typed.split(),
                "--seed",
                "4",
                "--align",
                "--mr-steps",
                "bias",
                "clip",
                "--field-of-view",
                "300",
                "--paired",
                "--dtype",
                "float32",
                "--processes",
                "2",
                "--force",
            ]
        )
        == 0
    )
    ((_, _, chosen), keywords) = seen[0]
    first = PrepareOptions(64, (300, 50), (1, 99), 2, (8, 1, 1), 4, None, True, 300, ("bias", "clip"))
    assert chosen == replace(first, paired=True, dtype="float32")
    assert keywords["force"] is True and keywords["processes"] == 2


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_argument(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert done.value.code == 0 and "None" not in shown and "False" not in shown


def test_too_little_memory_is_one_line_and_other_faults_of_ours_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def run(*_: Any, **__: Any) -> None:
            raise error

        return run

    text = "DefaultCPUAllocator: can't allocate memory\nmore"
    monkeypatch.setattr("roi_progressive.runs.evaluate.evaluate_run", fail(RuntimeError(text)))
    assert "not enough memory" in _fails(["evaluate", "run"], capsys)
    monkeypatch.setattr("roi_progressive.runs.evaluate.evaluate_run", fail(RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match="a defect"):
        main(["evaluate", "run"])


def _command(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # What runs in the background of a shell ignores Ctrl-C, and its children do; a terminal's command does not.
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = hears + "import sys; from roi_progressive.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        start_new_session=True,
    )


def test_a_mistake_shows_no_traceback_in_a_terminal_either(tmp_path: Path) -> None:
    process = _command("evaluate", str(tmp_path / "nowhere"))
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("roi-progressive: error: ") and err.count("\n") == 1


def test_an_interrupted_training_says_how_to_go_on_and_goes_on(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small: list[str]
) -> None:
    run = tmp_path / "run"
    endless = [*small, "--epochs", "5000", "--save-every-epochs", "1", "--no-regions"]
    process = _command("train", "--data", str(small_data), "--out", str(run), *endless)
    deadline = time.monotonic() + PATIENCE_S
    while not (run / "networks" / "latest.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert f"roi-progressive train --out {run} --resume" in err and "Traceback" not in err
    saved = json.loads((run / "networks" / "latest.json").read_text(encoding="utf-8"))["epoch"]
    _edit_options(run, epochs=saved + 1)
    capsys.readouterr()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert json.loads((run / "networks" / "latest.json").read_text(encoding="utf-8"))["epoch"] == saved + 1


@pytest.mark.parametrize("written", [False, True])
def test_an_interruption_before_anything_is_saved_says_so(
    written: bool, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, report: Callable[..., None], **__: Any) -> None:
        if written:
            report(1, 10, "stage 1")
        raise KeyboardInterrupt

    monkeypatch.setattr("roi_progressive.runs.train.train", interrupted)
    assert main(["train", "--data", str(small_data), "--out", str(tmp_path / "run")]) == 130
    said = "nothing was saved yet; start again with --force" if written else "nothing was written"
    assert said in capsys.readouterr().err


def _alive(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interrupted_demo_ends_all_its_processes(whole_group: bool, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    process = _command("demo", "--out", str(out), "--epochs", "500")
    deadline = time.monotonic() + PATIENCE_S
    while not (whole_group or (out / "regions" / "run.json").is_file()) and time.monotonic() < deadline:
        time.sleep(0.05)
    while whole_group and len(_alive(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)  # the trainings are still importing
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "roi-progressive: interrupted; start again with: " in err and "Traceback" not in err
    deadline = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _alive(process.pid) == []


def test_the_help_says_what_a_newcomer_cannot_know(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in {
        "prepare": ("any word, e.g. ART, PV or NC", "paths are relative to the CSV's own folder", "need such pairs"),
        "train": ("for abdomens and chests", "at the full learning rate; decay epochs follow (100)"),
        "evaluate": ("A2B, from domain A to domain B", "Those of an earlier evaluation of RUN are replaced"),
        "figure": ("A2B, from domain A to domain B", "a CT's in HU"),
    }.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        for word in words:
            assert word in shown, (command, word)


@pytest.mark.parametrize("module", ["roi_progressive", "roi_progressive.cli"])
def test_the_command_can_be_started_as_a_module(module: str, tmp_path: Path) -> None:
    def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, encoding="utf-8")

    version = run_module("--version")
    assert (version.returncode, version.stdout) == (0, f"roi-progressive {__version__}\n"), version.stderr
    mistake = run_module("evaluate", str(tmp_path / "nowhere"))
    assert (mistake.returncode, mistake.stdout) == (2, "")
    assert mistake.stderr.startswith("roi-progressive: error: ") and mistake.stderr.count("\n") == 1


def test_the_console_script_names_the_same_command() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="roi-progressive")
    assert script.value == "roi_progressive.cli:main" and script.load() is main
