"""``roi-progressive translate``, as it is typed: one patient or many, what it prints, and every mistake in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roi_progressive.cli.main import main
from roi_progressive.config import Config, GGDConfig
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.runs.train import TrainOptions, train

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
import scans  # noqa: E402
from volumes_at import body_in_air, geometry, mr_in_air, values, write_at  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, ``run`` (with uncertainty heads), ``plain``, and scans of patients nobody trained on."""
    folder = tmp_path_factory.mktemp("place")
    lines = ["patient,modality,image"]
    for number in range(3):
        for modality, draw in (("CT", body_in_air), ("MR", mr_in_air)):
            write_at(folder / "old" / f"p{number}_{modality}.nii.gz", draw((3, 40, 40), number))
            lines.append(f"p{number},{modality},p{number}_{modality}.nii.gz")
    (folder / "old" / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare(folder / "old" / "scans.csv", folder / "data", PrepareOptions(size_px=32))
    options = TrainOptions(**small_networks, epochs=2, decay_epochs=0, save_every_epochs=1, batch_size=9, device="cpu")
    train(folder / "data", folder / "run", options, Config(regions=(), ggd=GGDConfig(hidden_channels=2)))
    train(folder / "data", folder / "plain", options)
    for number in (7, 8):
        write_at(folder / "new" / f"n{number}.nii.gz", body_in_air((4, 40, 40), number))
    write_at(folder / "mr.nii.gz", mr_in_air((4, 40, 40), 7))
    scans.write_series(folder / "series", body_in_air((12, 32, 36)))
    return folder


@pytest.fixture
def typed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """What a line gives, typed beside the run: its status, and what was printed; results go below ``OUT``."""
    monkeypatch.chdir(place)

    def run(line: str) -> tuple[int, str, str]:
        arguments = [word.replace("OUT", str(tmp_path)) for word in line.split()]
        try:
            status = main(["translate", *arguments, "--device", "cpu"])
        except SystemExit as end:  # argparse
            status = int(str(end.code))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


Typed = Callable[[str], tuple[int, str, str]]


def test_one_patient_from_a_dicom_folder_whose_header_tells_the_way(place: Path, tmp_path: Path, typed: Typed) -> None:
    status, out, err = typed("run series OUT/mr.nii.gz --sigma OUT/sigma.nii.gz --dicom OUT/dicom")
    assert status == 0, err
    first, said, *notes = out.splitlines()
    assert first.startswith("device: cpu") and first.endswith("; networks: epoch 2, the last one")
    assert said.endswith("CT → MR, 12 slices in grey levels") and str(tmp_path / "mr.nii.gz") in said
    assert notes and all(note.startswith("note: ") for note in notes)
    assert len(list((tmp_path / "dicom").glob("*.dcm"))) == 12
    assert values(tmp_path / "sigma.nii.gz").max() > 0


def test_the_epoch_is_the_last_or_its_number(place: Path, tmp_path: Path, typed: Typed) -> None:
    for epoch in ("2", "last"):
        status, _, err = typed(f"run new/n7.nii.gz OUT/{epoch}.nii.gz --direction A2B --epoch {epoch}")
        assert status == 0, err
    assert len({(tmp_path / f"{epoch}.nii.gz").read_bytes() for epoch in ("2", "last")}) == 1
    for epoch, told in (
        ("7", "`epoch` must be one whose networks are kept: 2 (last); got 7"),
        ("best", "has no best one: it was not validated"),
        ("first", "`epoch` must be best, last or a number; got 'first'"),
        ("-1", "`epoch` must be best, last or a number; got '-1'"),
    ):
        status, _, err = typed(f"run new/n7.nii.gz OUT/x.nii.gz --direction A2B --epoch={epoch}")
        assert status == 2 and told in err


@pytest.mark.parametrize("given", ["new", "new/n7.nii.gz new/n8.nii.gz", "new.csv", "new.txt"])
def test_many_scans_go_into_a_folder_and_one_that_fails_is_named_at_the_end(
    place: Path, tmp_path: Path, typed: Typed, given: str
) -> None:
    (place / "new.csv").write_text(
        "modality,scan\nct,new/n7.nii.gz\nMR,mr.nii.gz\nCT,new/n8.nii.gz\n", encoding="utf-8"
    )
    (place / "new.txt").write_text("new/n7.nii.gz\nnew/n8.nii.gz\n", encoding="utf-8")
    status, out, err = typed(f"run {given} OUT/many --sigma OUT/spread --dicom OUT/dicom --direction A2B")
    assert status == 0, err
    for name in ("n7", "n8"):
        for folder in ("many", "spread"):
            assert geometry(tmp_path / folder / f"{name}.nii.gz") == geometry(place / "new" / f"{name}.nii.gz")
        assert len(list((tmp_path / "dicom" / name).glob("*.dcm"))) == 4
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["n7.nii.gz", "n8.nii.gz"]
    assert out.count("CT → MR") == 2
    status, _, err = typed(f"run {given} OUT/many --direction A2B")
    assert status == 2 and "must not exist yet" in err


def test_a_list_s_modalities_tell_the_way_of_each(place: Path, tmp_path: Path, typed: Typed) -> None:
    status, out, err = typed("run old/scans.csv OUT/both")
    assert status == 0, err
    assert out.count("CT → MR") == out.count("MR → CT") == 3
    (place / "pet.csv").write_text("modality,scan\nPET,new/n7.nii.gz\nCT,new/n8.nii.gz\n", encoding="utf-8")
    status, out, err = typed("run pet.csv OUT/pet")
    assert status == 2
    assert "left out: " in out and "must be a CT or a MR; n7.nii.gz is listed as PET" in out
    assert "`scan` must be usable; 1 of 2 was left out, named above; the others were written" in err
    assert (tmp_path / "pet" / "n8.nii.gz").is_file() and not (tmp_path / "pet" / "n7.nii.gz").exists()


def test_a_scan_that_is_damaged_or_gone_leaves_the_others(place: Path, tmp_path: Path, typed: Typed) -> None:
    shutil.copytree(place / "new", tmp_path / "in")
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"no volume")
    (tmp_path / "in" / "b.nii.gz").symlink_to("nowhere")
    status, out, err = typed("plain OUT/in OUT/made --direction A2B")
    assert status == 2 and "2 of 4 were left out" in err and err.count("\n") <= 3 + err.count("\r")
    assert out.count("left out: ") == 2
    made = sorted(path.name for path in (tmp_path / "made").glob("*.nii.gz"))
    assert made == ["n7.nii.gz", "n8.nii.gz"]


def test_force_replaces_what_it_wrote(place: Path, tmp_path: Path, typed: Typed) -> None:
    line = "plain new/n7.nii.gz OUT/x.mha --direction A2B"
    assert typed(line)[0] == 0
    assert typed(line)[0] == 2
    assert typed(f"{line} --force")[0] == 0
    (tmp_path / "mine.mha").write_text("mine", encoding="utf-8")
    status, _, err = typed("plain new/n7.nii.gz OUT/mine.mha --direction A2B --force")
    assert status == 2 and "is not ours" in err and (tmp_path / "mine.mha").read_text(encoding="utf-8") == "mine"


MISTAKES = {
    "data new/n7.nii.gz OUT/x.nii.gz": "has no run.json",
    "nowhere new/n7.nii.gz OUT/x.nii.gz": "is no folder",
    "run nowhere.nii.gz OUT/x.nii.gz": "there is no 'nowhere.nii.gz'",
    "run new/n7.nii.gz OUT/x.nii.gz": "--direction A2B (CT → MR) or B2A (MR → CT)",
    "run new/n7.nii.gz OUT/x --direction A2B": "`out` must end in",
    "run new OUT/x.nii.gz --direction A2B": "`out` must be a folder where there are several scans",
    "run data OUT/x": "holds none",
    "run mr.nii.gz OUT/x.nii.gz --direction A2B": "to translate MR → CT give --direction B2A",
    "run new/n7.nii.gz OUT/x.nii.gz --direction B2A": "those of HU; to translate CT → MR give --direction A2B",
    "run series OUT/x.nii.gz --direction B2A": "series is of modality CT; give --direction A2B",
    "run new/n7.nii.gz new/n7.nii.gz --direction A2B --force": "got new/n7.nii.gz twice",
    "run new/n7.nii.gz ./new/../new/n7.nii.gz --direction A2B --force": "another place than the scan",
    "plain new/n7.nii.gz OUT/x.nii.gz --direction A2B --sigma OUT/s.nii.gz": "uncertainty heads",
    "run new/n7.nii.gz OUT/x.nii.gz --direction A2B --sigma OUT/x.nii.gz": "another place than the scan and other",
    "run new OUT/x --direction A2B --sigma OUT/x": "another folder than OUT",
    "run new/n7.nii.gz OUT/x.nii.gz --direction A2C": "invalid choice",
    "run new/n7.nii.gz OUT/x.nii.gz --direction A2B --data nowhere": "cannot be used",
    "run OUT/x.nii.gz": "the following arguments are required",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, typed: Typed, line: str) -> None:
    status, out, err = typed(line)
    assert status == 2 and MISTAKES[line] in err and err.startswith("roi-progressive: error: ")
    assert err.count("\n") == 1 and out == ""
    assert not any(tmp_path.iterdir())


def test_a_run_whose_networks_are_gone_is_one_line(place: Path, tmp_path: Path, typed: Typed) -> None:
    run = shutil.copytree(place / "plain", tmp_path / "run")
    for path in (run / "networks").glob("*.pth"):
        path.unlink()
    status, _, err = typed("OUT/run new/n7.nii.gz OUT/x.nii.gz --direction A2B")
    assert status == 2 and "must name a saved checkpoint" in err and err.count("\n") == 1
    (run / "networks" / "latest.json").unlink()
    status, _, err = typed("OUT/run new/n7.nii.gz OUT/x.nii.gz --direction A2B")
    assert status == 2 and "`run` must hold a saved epoch" in err and err.count("\n") == 1


def test_an_interrupted_translation_says_what_was_finished(
    place: Path, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roi_progressive.runs import volume_translator

    real, begun = volume_translator.read_volume, []

    def interrupted(row: Any) -> Any:
        begun.append(row)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(row)

    monkeypatch.setattr(volume_translator, "read_volume", interrupted)
    status, _, err = typed("plain new OUT/many --direction A2B")
    assert status == 130 and f"interrupted; what was finished lies in {tmp_path / 'many'}" in err
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["n7.nii.gz"]
    assert np.isfinite(values(tmp_path / "many" / "n7.nii.gz")).all()
    begun.append(None)
    begun[:] = [None]
    status, _, err = typed("plain new/n7.nii.gz OUT/single/x.nii.gz --direction A2B")
    assert status == 130 and "interrupted; nothing was written" in err
    assert not (tmp_path / "single").exists()
