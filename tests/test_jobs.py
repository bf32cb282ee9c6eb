"""Each job is done once, by whichever process is free, and never again once it has a record."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from roi_progressive.data.jobs import run_jobs
from roi_progressive.data.partial_folder import PartialFolder
from roi_progressive.errors import DataError

pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')


@dataclass(frozen=True)
class Noting:
    """A job that leaves a file for every time it is done."""

    folder: Path
    number: int
    volumes = 2

    def __str__(self):
        return f"job {self.number}"

    def __call__(self, place):
        (self.folder / f"{self.number}-{uuid.uuid4().hex}").touch()
        return {"square": self.number**2}


@dataclass(frozen=True)
class Failing(Noting):
    """A job that the user's data make impossible."""

    def __call__(self, place):
        raise DataError("`number` must be another")


@pytest.fixture
def place(tmp_path):
    made = PartialFolder(tmp_path / "place")
    made.path.mkdir()
    made.start({}, force=False)
    return made


@pytest.mark.parametrize("processes", [1, 3])
def test_every_job_is_done_once_and_the_records_stand_in_their_order(place, tmp_path, processes):
    (tmp_path / "done").mkdir()
    jobs = {f"n{number}": Noting(tmp_path / "done", number) for number in range(7)}
    place.keep("n4", {"square": "known"})
    heard = []
    records = run_jobs(place, jobs, processes, lambda more, text: heard.append((more, text)))
    assert [record["square"] for record in records] == [0, 1, 4, 9, "known", 25, 36]
    assert sorted(path.name[0] for path in (tmp_path / "done").iterdir()) == ["0", "1", "2", "3", "5", "6"]
    assert sum(more for more, _ in heard) == 14 and {f"job {n}" for n in (0, 6)} < {text for _, text in heard}
    run_jobs(place, jobs, processes, lambda *_: None)
    assert len(list((tmp_path / "done").iterdir())) == 6


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_job_is_the_callers(place, tmp_path, processes):
    jobs = {f"n{number}": Failing(tmp_path, number) for number in range(2)}
    with pytest.raises(DataError, match="`number` must be another"):
        run_jobs(place, jobs, processes, lambda *_: None)
