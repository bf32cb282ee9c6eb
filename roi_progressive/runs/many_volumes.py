"""Several scans in one go: networks are loaded once, and one scan that fails keeps none of the others from its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.given_scans import GivenScan
from ..data.volume_writing import ending_of
from ..errors import DataError, RoiProgressiveError, one_line
from ..saving.names import source_of
from .train import Report
from .volume_translator import TranslatedVolume, Translator, VolumeJob

_ENDING = ".nii.gz"
_PARTS_OF_A_SCAN = 1000


@dataclass(frozen=True)
class TranslatedScans:
    """What became of several scans.

    Args:
        volumes: Those that were translated.
        problems: One line for each that was not, and why.
    """

    volumes: list[TranslatedVolume] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """What to show at the end."""
        return "\n".join([*map(str, self.volumes), *(f"left out: {problem}" for problem in self.problems)])


def jobs_in_folders(
    scans: Sequence[GivenScan], out: Path, sigma: Path | None, dicom: Path | None, direction: str | None, source: str
) -> list[VolumeJob]:
    """A job for each scan: its results are called as it is, in folders.

    Args:
        scans: Which.
        out: The folder of the volumes.
        sigma: That of their standard deviations, where these are wanted.
        dicom: That of the folders of DICOM series, likewise.
        direction: As given; scans that a list says to be of another modality than ``source`` are then left aside.
        source: What the domain is called that the direction starts from.

    Raises:
        DataError: ``out`` is the name of a volume, or all scans are of another modality.
    """
    if ending_of(out) is not None or out.is_file():
        raise DataError(f"`out` must be a folder where there are several scans; got {str(out)!r}")
    if direction is not None:
        scans = [found for found in scans if found.modality is None or found.modality.casefold() == source.casefold()]
        if not scans:
            raise DataError(f"`scan` must be a list that has scans of modality {source}; it has none")
    return [
        VolumeJob(
            found.path,
            out / f"{found.name}{_ENDING}",
            None if sigma is None else sigma / f"{found.name}{_ENDING}",
            None if dicom is None else dicom / found.name,
            found.modality,
        )
        for found in scans
    ]


def translate_scans(
    made: Translator,
    scans: Sequence[GivenScan],
    out: Path,
    *,
    sigma: Path | None = None,
    dicom: Path | None = None,
    force: bool = False,
    report: Report | None = None,
) -> TranslatedScans:
    """Translate scans one after the other.

    Args:
        made: The loaded networks.
        scans: Which.
        out: A folder for the volumes, as ``<name of the scan>.nii.gz``.
        sigma: A folder for their standard deviations.
        dicom: A folder for a folder with a DICOM series of each.
        force: Replace earlier results.
        report: Called after every few slices.

    Raises:
        DataError: A result would replace something, or no sigma can be made; nothing was written then.
    """
    name = made.preparation.domains.name(source_of(made.direction or "A2B"))
    jobs = jobs_in_folders(scans, out, sigma, dicom, made.direction, name)
    for job in jobs:
        made.check_places(job, force)
    done = TranslatedScans()
    for number, job in enumerate(jobs):

        def step(slices: int, of: int, text: str, before: int = number) -> None:
            if report is not None:
                share = _PARTS_OF_A_SCAN * slices // of
                report(_PARTS_OF_A_SCAN * before + share, _PARTS_OF_A_SCAN * len(jobs), text)

        try:
            made.check_scan(job)
            done.volumes.append(made.translate(job, force=force, report=step))
        except (RoiProgressiveError, OSError, MemoryError) as error:
            notes = "; ".join([one_line(error) or type(error).__name__, *getattr(error, "__notes__", ())])
            done.problems.append(f"{job.scan}: {notes}")
    return done
