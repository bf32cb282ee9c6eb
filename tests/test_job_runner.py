"""Each job is done once, by whichever process is free, and never again once it has a record."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from roi_progressive.data.job_runner import run_jobs
from roi_progressive.data.partial_folder import PartialFolder
from roi_progressive.errors import DataError

pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')


@pytest.fixture
def noting(monkeypatch):
    """The jobs' module, where new processes find it too: they take over `sys.path`."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("noting_jobs")


@pytest.fixture
def place(tmp_path):
    made = PartialFolder(tmp_path / "place")
    made.path.mkdir()
    made.start({}, force=False)
    return made


@pytest.mark.parametrize("processes", [1, 3])
def test_every_job_is_done_once_and_the_records_stand_in_their_order(place, noting, tmp_path, processes):
    (tmp_path / "done").mkdir()
    jobs = {f"n{number}": noting.Noting(tmp_path / "done", number) for number in range(7)}
    place.keep("n4", {"square": "known"})
    heard = []
    records = run_jobs(place, jobs, processes, lambda more, text: heard.append((more, text)))
    assert [record["square"] for record in records] == [0, 1, 4, 9, "known", 25, 36]
    assert sorted(path.name[0] for path in (tmp_path / "done").iterdir()) == ["0", "1", "2", "3", "5", "6"]
    assert sum(more for more, _ in heard) == 14 and {f"job {n}" for n in (0, 6)} < {text for _, text in heard}
    run_jobs(place, jobs, processes, lambda *_: None)
    assert len(list((tmp_path / "done").iterdir())) == 6


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_job_is_the_callers(place, noting, tmp_path, processes):
    jobs = {f"n{number}": noting.Failing(tmp_path, number) for number in range(2)}
    with pytest.raises(DataError, match="`number` must be another"):
        run_jobs(place, jobs, processes, lambda *_: None)
