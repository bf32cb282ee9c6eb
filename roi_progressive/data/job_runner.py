"""Jobs of a data set in the making, one after another or shared among processes, each done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..runtime.parallel import Report, run_parallel
from .medical_packages import simpleitk
from .partial_folder import PartialFolder


class Job(Protocol):
    """Picklable work on volumes; its text says which."""

    @property
    def volumes(self) -> int:
        """How many, for the progress."""

    def __call__(self, place: PartialFolder) -> dict[str, Any]:
        """Do it, and give the record to keep."""


Progress = Callable[[int, int, str], None]
"""Told of volumes done, volumes in all, and what is being done."""


def run_jobs(
    place: PartialFolder, jobs: Mapping[str, Job], processes: int, report: Callable[[int, str], None]
) -> list[dict[str, Any]]:
    """Do the jobs that have no record yet.

    Several processes take the next job as they get free: each start costs a second or two of imports, and volumes
    differ too much in size to be dealt out beforehand.

    Args:
        place: Where the jobs write.
        jobs: By the name of their record.
        processes: How many at a time, one thread each; one is this process itself.
        report: Told how many volumes more are done, and what is being done.

    Returns:
        The records of all jobs, in their order.

    Raises:
        DataError: A process was killed; the message names the volumes it was at.
    """
    waiting = {key: job for key, job in jobs.items() if place.record(key) is None}
    report(sum(job.volumes for key, job in jobs.items() if key not in waiting), "reading")
    if min(processes, len(waiting)) < 2:
        for key, job in waiting.items():
            report(0, str(job))
            record = job(place)
            report(0, str(job))  # a user who ended it meanwhile ends it here, not with a volume left out for that
            place.keep(key, record)
            report(job.volumes, str(job))
    else:
        place.forget_claims()
        workers = {f"worker {number}": _Worker(place, waiting) for number in range(1, min(processes, len(waiting)) + 1)}
        run_parallel(workers, processes, lambda _, share, text: report(*_progress_of(waiting, share, text)))
    found = [place.record(key) for key in jobs]
    return [record for record in found if record is not None]


def _progress_of(jobs: Mapping[str, Job], share: float, text: str) -> tuple[int, str]:
    """Of a worker's report: volumes done with it, and what it is at."""
    done = {str(job): job.volumes for job in jobs.values()}
    return (done[text] if share == 1.0 else 0), text


@dataclass(frozen=True)
class _Worker:
    """Takes jobs that no other took, until there is none; reports a share of 0 before each and 1 after."""

    place: PartialFolder
    jobs: dict[str, Job]

    def __call__(self, report: Report) -> None:
        simpleitk().ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        for key, job in self.jobs.items():
            if self.place.claim(key):
                report(0.0, str(job))
                self.place.keep(key, job(self.place))
                report(1.0, str(job))
