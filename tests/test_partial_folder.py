"""Preparing in several processes, stopped and gone on with: the bytes are those of one run in one go."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from roi_progressive.data import volume_jobs
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.partial_folder import partial_folder
from roi_progressive.data.prepare import prepare
from roi_progressive.errors import ConfigError, DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')

OPTIONS = PrepareOptions(size_px=32, align=True, mr_steps=("denoise", "standardise", "clip", "zscore"))
PATIENTS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A CT and an MR of four patients, blocks of noise with a box in them, and what one run in one go makes of them."""
    tmp_path = tmp_path_factory.mktemp("world")
    z, y, x = np.indices((12, 40, 44))
    body, box = np.hypot(x - 22, y - 20) < 17, (abs(x - 26) < 5) & (abs(y - 16) < 4) & (abs(z - 6) < 3)
    rows = [["patient", "phase", "modality", "image", "tumor"]]
    write(tmp_path / "box.nii.gz", box.astype(np.uint8))
    for number in range(PATIENTS):
        rng = np.random.default_rng(number)
        ct = np.where(body, 40 + 60 * box, -1000) + rng.normal(0, 8, body.shape)
        mr = np.where(body, 300 + 2 * x + 200 * box, 0) + abs(rng.normal(0, 8, body.shape))
        for modality, values in (("CT", ct), ("MR", mr)):
            write(tmp_path / f"{modality}{number}.nii.gz", values.astype(np.float32))
            rows.append([f"p{number}", "NC", modality, f"{modality}{number}.nii.gz", "box.nii.gz"])
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    prepare(tmp_path / "list.csv", tmp_path / "whole", OPTIONS)
    return tmp_path


@pytest.fixture
def listed(world, tmp_path):
    """The list, in a folder of its own."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    return tmp_path / "list.csv"


def write(path: Path, values):
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def bytes_below(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def stop_at_picture(monkeypatch, number):
    """Ctrl-C while a picture is being written; gives the picture count of whatever follows."""
    calls, original = [], volume_jobs.write_picture

    def write_picture(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(volume_jobs, "write_picture", write_picture)
    return calls


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_any_number_of_processes_writes_the_same_bytes(listed, tmp_path):
    report = prepare(listed, tmp_path / "out", OPTIONS, processes=3)
    assert bytes_below(tmp_path / "out") == bytes_below(tmp_path / "whole")
    assert report.problems == report.notes == [] and report.slice_counts["trainA"] > 0
    assert hidden(tmp_path) == []


def test_a_stopped_run_goes_on_with_what_is_not_done_and_ends_in_the_same_bytes(listed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        written = len(list((tmp_path / "whole").glob("*A/*.png"))) * 2
        stop_at_picture(patch, written // 2 + 2)  # in the middle of the third patient
        with pytest.raises(KeyboardInterrupt):
            prepare(listed, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists() and hidden(tmp_path) == [".out.partial"]
    again = stop_at_picture(monkeypatch, 0)
    report = prepare(listed, tmp_path / "out", OPTIONS)
    assert len(again) == written // 2 and "had done 4 of 8 volumes" in report.notes[0]
    assert bytes_below(tmp_path / "out") == bytes_below(tmp_path / "whole") and hidden(tmp_path) == []


def test_a_forced_run_that_is_stopped_leaves_the_earlier_data_set(listed, tmp_path, monkeypatch):
    prepare(listed, tmp_path / "out", OPTIONS)
    (tmp_path / "out" / "precious.txt").write_text("mine", encoding="utf-8")
    before = bytes_below(tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_at_picture(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            prepare(listed, tmp_path / "out", OPTIONS, force=True)
    assert bytes_below(tmp_path / "out") == before
    smaller = PrepareOptions(size_px=16, align=True)
    prepare(listed, tmp_path / "out", smaller, force=True)
    assert (tmp_path / "out" / "precious.txt").read_text(encoding="utf-8") == "mine" and hidden(tmp_path) == []
    assert bytes_below(tmp_path / "out") != before


def test_a_folder_that_is_no_data_set_is_never_replaced(listed, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"or with --force one that we wrote; [^\n]+ has no record of that"):
        prepare(listed, tmp_path / "thesis", OPTIONS, force=True)
    assert bytes_below(tmp_path / "thesis") == {"thesis.tex": b"mine"} and hidden(tmp_path) == []


def test_what_a_run_left_that_was_killed_after_its_last_rename_goes_with_the_next_one(listed, tmp_path):
    prepare(listed, tmp_path / "out", OPTIONS)
    shutil.copytree(tmp_path / "out", tmp_path / ".out.roi_progressive.old")
    (tmp_path / ".out.partial" / "records").mkdir(parents=True)
    before = bytes_below(tmp_path / "out")
    with pytest.raises(DataError, match="new or empty"):
        prepare(listed, tmp_path / "out", OPTIONS)
    assert hidden(tmp_path) == [] and bytes_below(tmp_path / "out") == before


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(listed, tmp_path, processes):
    code = (
        "import sys; from roi_progressive.data.prepare import prepare; from roi_progressive.data.options import "
        f"PrepareOptions; prepare(sys.argv[1], sys.argv[2], {OPTIONS!r}, processes={processes})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(listed), str(tmp_path / "out")])
    records = tmp_path / ".out.partial" / "records"
    while child.poll() is None and not list(records.glob("group*")):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    report = prepare(listed, tmp_path / "out", OPTIONS, processes=processes)
    assert "went on with a stopped run" in report.notes[0]
    assert bytes_below(tmp_path / "out") == bytes_below(tmp_path / "whole") and hidden(tmp_path) == []


def change_the_list(listed):
    listed.write_text(listed.read_text(encoding="utf-8") + "p9,NC,CT,CT0.nii.gz,box.nii.gz\n", encoding="utf-8")
    return OPTIONS


def change_a_file(listed):
    os.utime(listed.with_name("CT0.nii.gz"), (1, 1))
    return OPTIONS


CHANGES = {
    "list and files": change_the_list,
    "files": change_a_file,
    "options": lambda listed: PrepareOptions(size_px=16, align=True),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_is_left_of_other_settings_is_refused_unless_forced(listed, tmp_path, monkeypatch, changed):
    with monkeypatch.context() as patch:
        stop_at_picture(patch, 30)
        with pytest.raises(KeyboardInterrupt):
            prepare(listed, tmp_path / "out", OPTIONS)
    options = CHANGES[changed](listed)
    with pytest.raises(DataError, match=f"`out` has an unfinished run .* begun with other {changed}; .*force"):
        prepare(listed, tmp_path / "out", options)
    report = prepare(listed, tmp_path / "out", options, force=True)
    assert not any("went on" in note for note in report.notes) and hidden(tmp_path) == []


def test_two_runs_into_one_folder_are_refused(listed, tmp_path):
    with partial_folder(tmp_path / "out", {}, force=False) as place:
        with pytest.raises(DataError, match="is being written by another run"):
            prepare(listed, tmp_path / "out", OPTIONS)
        (place.pictures / "kept").write_text("whole", encoding="utf-8")
    assert (tmp_path / "out" / "kept").read_bytes() == b"whole"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the workers through /proc")
def test_a_killed_worker_is_an_error_that_names_the_volumes_and_keeps_what_is_done(listed, tmp_path, monkeypatch):
    with open("/dev/null", "wb") as sink:
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "roi_progressive.cli", "prepare", str(listed), str(tmp_path / "out")),
                *("--processes", "2", "--size", "32", "--align", "--mr-steps", "denoise", "standardise"),
                *("clip", "zscore"),
            ],
            stdout=sink,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        kill_a_worker(child, tmp_path / ".out.partial" / "records")
        shown = child.communicate(timeout=60)[1]
    assert child.returncode == 2
    last = shown.strip().splitlines()[-1]
    assert "killed (status -9) at line" in last and "NC" in last and last.endswith("use --processes 1")
    prepare(listed, tmp_path / "out", OPTIONS)
    assert bytes_below(tmp_path / "out") == bytes_below(tmp_path / "whole")


def kill_a_worker(child, records):
    """The first process below ``child`` that is no helper of Python's own, once a group is done."""
    while child.poll() is None:
        if list(records.glob("group*")):
            for number in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text(encoding="utf-8").split():
                if "spawn_main" in Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8"):
                    os.kill(int(number), signal.SIGKILL)
                    return
        time.sleep(0.005)


def test_a_run_in_which_nothing_was_usable_leaves_nothing(listed, tmp_path):
    listed.write_text("patient,phase,modality,image,tumor\np,NC,CT,lost.nii.gz,\n", encoding="utf-8")
    with pytest.raises(DataError, match="must name a usable volume"):
        prepare(listed, tmp_path / "out", PrepareOptions())
    assert hidden(tmp_path) == [] and not (tmp_path / "out").exists()


def test_fewer_than_one_process_is_refused(listed, tmp_path):
    with pytest.raises(ConfigError, match="`processes`"):
        prepare(listed, tmp_path / "out", processes=0)
