"""From a scan to a volume on its own grid: the slices that ``prepare`` would make, a network, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.dicom_files import modalities_of
from ..data.dicom_writing import CLASSES, DerivedSeries, source_headers, write_series
from ..data.framed_scans import FramedScans
from ..data.framing import Square, square_around
from ..data.pictures import Intensities, intensities_of, neighbour_indices, picture_pixels
from ..data.preparation import Preparation
from ..data.preprocessing import FloatArray, IntensityMapping
from ..data.stored_volume import Grid
from ..data.volume_list import VolumeRow
from ..data.volume_writing import check_ending, is_ours, write_volume
from ..data.volumes import Volume, dicom_modality, read_volume
from ..errors import ConfigError, DataError, ShapeError, add_note
from ..saving.locks import only_writer, resolved
from ..saving.names import DIRECTIONS, DOMAINS, ONE_PHASE, REVERSE, source_of, target_of
from ..saving.whole_files import require_new_or_empty
from ..saving.written import new_folder, remove_half_written_of, write_checksums
from .folder import network_input, pictures_as_grey, require_finite
from .made_volume import MadeVolume
from .train import Report

Generator = Callable[[Tensor], Any]
"""From ``[N, C, size_px, size_px]`` in [-1, 1] to the same, or to an ``Uncertainty``.

C is 1, or ``1 + 2 * neighbours`` of data prepared with neighbours; of what it makes the first channel counts.
"""
_PIXELS_AT_A_TIME = 256 * 256
"""Of a network on the CPU, whose memory is the machine's; others start less often with more."""
_TIMES_AS_MANY_ELSEWHERE = 8
_MOST_SLICES_AT_A_TIME = 16


@dataclass(frozen=True)
class VolumeJob:
    """One scan, and where what is made of it goes.

    Args:
        scan: A volume file or the folder of a DICOM series.
        out: The volume.
        sigma: That of its standard deviation, where it is wanted.
        dicom: The folder of its DICOM series, likewise.
        modality: What a list says of the scan.
    """

    scan: Path
    out: Path
    sigma: Path | None = None
    dicom: Path | None = None
    modality: str | None = None


@dataclass(frozen=True)
class TranslatedVolume:
    """What was made of a scan.

    Args:
        scan: The file or folder it was read from.
        out: The volume that was written.
        sigma: That of its standard deviation, where it was asked for.
        dicom: The folder of its DICOM series, likewise.
        title: The direction by the names of its domains.
        units: Of the values, and of sigma: ``HU`` or ``grey levels``.
        slices: How many there are.
        notes: What to know of it, one line each.
    """

    scan: Path
    out: Path
    sigma: Path | None
    dicom: Path | None
    title: str
    units: str
    slices: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What to show: where it lies, then the notes, one a line."""
        files = ", ".join(str(path) for path in (self.out, self.sigma, self.dicom) if path is not None)
        return "\n".join(
            [f"{files}: {self.title}, {self.slices} slices in {self.units}", *(f"note: {note}" for note in self.notes)]
        )


@dataclass(frozen=True)
class Translator:
    """Loaded networks, and how scans are brought to what they were trained on; made by :func:`translator`.

    Args:
        preparation: How the slices were made.
        direction: As the user gave it; ``None`` where each scan's header is to tell.
        make: From a direction and ``[N, C, size_px, size_px]`` in [-1, 1] to images and, where there are any, sigma.
            The first channel is the slice itself, then come its neighbours from the feet to the head.
        device: Where the networks compute.
        has_sigma: Whether there is a sigma; ``None`` where only the first call tells.
        neighbours: Slices above, and below, that the networks take as further channels.
        sigma_note: What to know of it.
        framed: How the scans of the data set were cut; ``None`` where it is not known.
    """

    preparation: Preparation
    direction: str | None
    make: Callable[[str, Tensor], tuple[Tensor, Tensor | None]]
    device: torch.device
    has_sigma: bool | None
    neighbours: int = 0
    sigma_note: str | None = None
    framed: FramedScans | None = None

    def check(self, job: VolumeJob, force: bool) -> None:
        """Look at all that can be known before the scan is read.

        Raises:
            DataError: A result has no format or would replace something, or no sigma can be made.
        """
        self.check_scan(job)
        self.check_places(job, force)

    def check_scan(self, job: VolumeJob) -> None:
        """Check that there is a scan.

        Raises:
            DataError: There is none.
        """
        if not job.scan.exists():
            raise DataError(f"`scan` must be a volume file or a folder of DICOM files; there is no {str(job.scan)!r}")

    def check_places(self, job: VolumeJob, force: bool) -> None:
        """Look at where results go.

        Raises:
            DataError: A result has no format or would replace something, or no sigma can be made.
        """
        check_ending("out", job.out)
        if job.sigma is not None:
            check_ending("sigma", job.sigma)
            if self.has_sigma is False:
                raise DataError(
                    "`sigma` must be asked of a run that has uncertainty heads, trained with [ggd] in its config; this "
                    "one has none; leave it out"
                )
        places = [path for path in (job.scan, job.out, job.sigma, job.dicom) if path is not None]
        if len({resolved(path) for path in places}) < len(places):
            raise DataError(f"`out` must be another place than the scan and other results; got {job.out} twice")
        for path in (job.out, job.sigma):
            _check_free(path, force)
        if job.dicom is not None:
            require_new_or_empty(job.dicom, force=force)

    def translate(self, job: VolumeJob, *, force: bool = False, report: Report | None = None) -> TranslatedVolume:
        """Translate one scan and write what was asked for; nothing is left of it where it fails.

        Raises:
            As :func:`translate_volume`.
        """
        direction = self._direction_of(job.scan, job.modality)
        source, target = source_of(direction), target_of(direction)
        volume = self._read(job.scan, direction)
        assert volume.stored is not None
        about = None if job.dicom is None else self._about(job.scan, direction, volume.series)
        grid, spacing_mm, notes = volume.stored, volume.spacing_mm, list(volume.notes)
        options, standard = self.preparation.options, self.preparation.standard.get(source)
        lps = np.asarray(volume.image.GetDirection()).reshape(3, 3)
        if "bias" not in options.mr_steps:
            volume = replace(volume, image=None)  # it is the scan once more
        found = intensities_of(volume, self.preparation.in_hounsfield[source], options, standard)
        slices = np.flatnonzero(found.body.any(axis=(1, 2)))
        if not slices.size:
            raise DataError(f"`scan` must show a body; no slice of {job.scan.name} does; check the file")
        squares, known = self._squares(found, source, spacing_mm)
        if known is not None:
            notes.append(
                f"{job.scan.name} is a scan of the data set; {known} of its slices are cut as those that it has there"
            )
        notes += self._spacing_notes(job.scan.name, source, spacing_mm, squares)
        del volume
        result = MadeVolume.empty(
            found.values.shape, grid, lps, self.preparation.mapping_of_target(target), with_sigma=job.sigma is not None
        )
        done = 0
        for batch in _batches(slices.tolist(), options.size_px, self.device.type):
            pictures = self._pictures(found, batch, squares)
            image, sigma = self._made(direction, network_input(pictures_as_grey(pictures)).to(self.device), job)
            result.put({index: squares[index] for index in batch}, image, sigma)
            done += len(batch)
            if report is not None:
                report(done, len(slices), f"{job.scan.name}, {self.preparation.domains.title(direction)}")
        notes += self._value_notes(found, source, target, result, {index: squares[index] for index in slices.tolist()})
        notes += [self.sigma_note] if job.sigma is not None and self.sigma_note is not None else []
        del found
        written = self._write(job, result, grid, about, force)
        title = self.preparation.domains.title(direction)
        return TranslatedVolume(*written, title, self.preparation.units(target), len(result.values), tuple(notes))

    # -- which way, and whether it is the right scan -------------------------------------------------------------------

    def _direction_of(self, scan: Path, listed: str | None) -> str:
        domains, in_hu = self.preparation.domains, self.preparation.in_hounsfield
        wanted = {domain: dicom_modality(domains.name(domain), in_hu[domain]) for domain in DOMAINS}
        there = modalities_of(scan)
        told = ", ".join(sorted(there))
        if self.direction is not None:
            source = source_of(self.direction)
            if there and wanted[source] is not None and wanted[source] not in there:
                other = REVERSE[self.direction]
                way_out = f"give --direction {other}, or another scan"
                raise DataError(
                    f"`scan` must be of modality {wanted[source]} for {domains.title(self.direction)}; {scan.name} is "
                    f"of modality {told}; {way_out if wanted[source_of(other)] in there else 'give another scan'}"
                )
            return self.direction
        if listed is not None:
            named = [d for d in DIRECTIONS if domains.name(source_of(d)).casefold() == listed.casefold()]
            if not named:
                raise DataError(f"`scan` must be a {domains.a} or a {domains.b}; {scan.name} is listed as {listed}")
            return named[0]
        fitting = [direction for direction in DIRECTIONS if wanted[source_of(direction)] in there]
        if len(fitting) == 1:
            return fitting[0]
        if there and not fitting and None not in wanted.values():
            raise DataError(f"`scan` must be of modality {wanted['A']} or {wanted['B']}; {scan.name} is of {told}")
        ways = " or ".join(f"{direction} ({domains.title(direction)})" for direction in DIRECTIONS)
        raise ConfigError(
            f"`direction` must be given where no header tells the modality of {scan.name}; give --direction {ways}"
        )

    def _read(self, scan: Path, direction: str) -> Volume:
        domains, source = self.preparation.domains, source_of(direction)
        in_hu, name = self.preparation.in_hounsfield, domains.name(source)
        row = VolumeRow(0, "", ONE_PHASE, name, scan, {}, domain=source, hounsfield=in_hu[source])
        hint = f"to translate {domains.title(REVERSE[direction])} give --direction {REVERSE[direction]}"
        try:
            volume = read_volume(row)
        except DataError as error:
            if "Hounsfield" in str(error) and not in_hu[target_of(direction)]:
                add_note(error, hint)
            raise
        if in_hu[target_of(direction)] and (volume.looks_like_hounsfield or volume.may_be_hounsfield):
            raise DataError(f"`scan` must be of modality {name}; the values of {scan.name} are those of HU; {hint}")
        if volume.may_be_hounsfield and not volume.looks_like_hounsfield:  # else the volume's own notes say so
            said = f"the values of {scan.name} could be HU; it was taken for a scan of modality {name}"
            volume = replace(volume, notes=(*volume.notes, said))
        return volume

    # -- the generator -------------------------------------------------------------------------------------------------

    def _squares(
        self, found: Intensities, domain: str, spacing_mm: tuple[float, float, float]
    ) -> tuple[list[Square], int | None]:
        """What is cut out of every slice; of a scan of the data set, also of how many slices it is the square there.

        That is the square around the body of all slices. A scan of the data set has its square there in the slices
        that it has there, and wherever it holds the slice's body: a slice of both is one picture, and none loses body.
        """
        options = self.preparation.options
        nothing = np.zeros(found.body.shape[1:], dtype=bool)
        whole = square_around(np.logical_or.reduce(found.body), nothing, spacing_mm[1:], options.field_of_view_mm)
        there = None if self.framed is None else self.framed.scan_of(domain, found, spacing_mm, options)
        if there is None:
            return [whole] * len(found.body), None
        as_there = [
            index in there.pictures or int(there.square.cut(plane, 0).sum()) >= int(whole.cut(plane, 0).sum())
            for index, plane in enumerate(found.body)
        ]
        return [there.square if same else whole for same in as_there], sum(as_there)

    def _pictures(self, found: Intensities, batch: Sequence[int], squares: Sequence[Square]) -> npt.NDArray[Any]:
        """The input of the networks, ``[N, C, size_px, size_px]``: each slice, then its neighbours in its square."""

        @cache
        def scaled(index: int) -> FloatArray:
            return found.scaled(index)

        @cache
        def picture(index: int, square: Square) -> npt.NDArray[Any]:
            return picture_pixels(scaled(index), square, self.preparation.options)

        last = len(found.values) - 1
        return np.stack(
            [
                np.stack([picture(near, squares[i]) for near in (i, *neighbour_indices(i, self.neighbours, 0, last))])
                for i in batch
            ]
        )

    def _made(self, direction: str, source: Tensor, job: VolumeJob) -> tuple[Tensor, Tensor | None]:
        """The first channels of images and sigma, ``[N, H, W]`` in float32 on the CPU."""
        image, sigma = self.make(direction, source)
        if not isinstance(image, Tensor) or image.ndim != 4 or image[:, :1].shape != source[:, :1].shape:
            what = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ShapeError(f"`generator` must make images like {list(source.shape)}; it made {what}")
        if job.sigma is not None and sigma is None:
            raise DataError("`sigma` must be asked of a generator that returns an `Uncertainty`; this one makes images")
        require_finite(image, job.out.name)
        if sigma is not None:
            require_finite(sigma, job.out.name)
        return image[:, 0].float().cpu(), None if sigma is None else sigma[:, 0].float().cpu()

    # -- what to know of the result ------------------------------------------------------------------------------------

    def _spacing_notes(
        self, name: str, domain: str, spacing_mm: tuple[float, float, float], squares: Sequence[Square]
    ) -> Iterator[str]:
        trained, size_px = self.preparation.slices_mm.get(domain), self.preparation.options.size_px
        if trained is not None and len(squares) > 1 and spacing_mm[0] not in trained:
            yield f"the slices of {name} lie {spacing_mm[0]:.3g} mm apart, those of the training {trained}"
        seen = self.preparation.pixels_mm.get(domain)
        sides = {
            length_mm / size_px
            for square in squares
            for length_mm in (spacing_mm[1] * square.height, spacing_mm[2] * square.width)
        }
        if seen is not None and not all(side in seen for side in sides):
            far = max(sides, key=lambda side: max(side / seen.greatest, seen.least / side))
            drawn = "smaller" if far > seen.greatest else "larger"
            yield (
                f"a pixel that the network sees of {name} is {far:.3g} mm wide, those of the training {seen}: the body "
                f"is drawn {drawn} than the network knows it, and the result may be worse; to be sure of one scale "
                f"prepare with --field-of-view"
            )

    def _value_notes(
        self, found: Intensities, source: str, target: str, result: MadeVolume, squares: Mapping[int, Square]
    ) -> Iterator[str]:
        in_hu, mapping = self.preparation.in_hounsfield, result.mapping
        if in_hu[source]:
            beyond = sum(_beyond(found.values[i][found.body[i]], found.mapping) for i in range(len(found.values)))
            share = beyond / max(1, int(found.body.sum()))
            if beyond:
                yield (
                    f"{share:.1%} of the scan's body lies beyond the window of {found.mapping.low:g} to "
                    f"{found.mapping.high:g} HU and was clipped before it was translated"
                )
        if in_hu[target]:
            yield (
                f"the values are HU, clipped to the window of the training: {mapping.low:g} stands for all below, "
                f"{mapping.high:g} for all above; {result.at_ends:,} of the translated voxels hold one of the two"
            )
        else:
            yield (
                f"the values are grey levels of the training's normalisation, 0 to 255, not those of a scanner's "
                f"{self.preparation.domains.name(target)}"
            )
        seen = sum(int(square.cut(found.body[index], 0).sum()) for index, square in squares.items())
        cut_off = int(found.body.sum()) - seen
        if cut_off:
            yield (
                f"{cut_off / int(found.body.sum()):.1%} of the scan's body lies outside of the square of "
                f"{self.preparation.options.field_of_view_mm:g} mm and was not translated"
            )
        outside = result.values.size - sum(square.covers(found.body.shape[1:]) for square in squares.values())
        if outside:
            empty, sigma = len(found.values) - len(squares), "" if result.sigma is None else ", with a sigma of 0"
            yield (
                f"{outside:,} voxels were not translated and hold {mapping.low:g}{sigma}: outside of a square around "
                f"the body" + (f", or in the {empty} slices that show none" if empty else "")
            )

    # -- what is written -----------------------------------------------------------------------------------------------

    def _write(
        self, job: VolumeJob, result: MadeVolume, grid: Grid, about: DerivedSeries | None, force: bool
    ) -> tuple[Path, Path, Path | None, Path | None]:
        files = [path for path in (job.out, job.sigma) if path is not None]
        with ExitStack() as stack:
            for path in files:
                stack.enter_context(only_writer(path))
                _check_free(path, force)
                remove_half_written_of(path)
            if job.dicom is not None and about is not None:
                stack.enter_context(only_writer(job.dicom))
                folder = stack.enter_context(new_folder(job.dicom, force=force))
                write_series(folder, result.values, grid, about)
                write_checksums(folder)
            if job.sigma is not None and result.sigma is not None:
                write_volume(job.sigma, result.sigma, grid, job.scan)
            write_volume(job.out, result.values, grid, job.scan)
        return job.scan, job.out, job.sigma, job.dicom

    def _about(self, scan: Path, direction: str, series: str | None) -> DerivedSeries:
        domains, target = self.preparation.domains, target_of(direction)
        sources = source_headers(scan, series)
        modality = dicom_modality(domains.name(target), self.preparation.in_hounsfield[target])
        if modality is None and sources:
            modality = str(sources[0].get("Modality", ""))
        if modality not in CLASSES:
            raise DataError(
                f"`dicom` can be written of a CT or an MR; {domains.name(target)} is neither; leave it out, or convert "
                f"the volume"
            )
        mapping = self.preparation.mapping_of_target(target)
        return DerivedSeries(
            modality,
            self.preparation.units(target),
            (mapping.low, mapping.high),
            f"synthetic {domains.name(target)} from {domains.name(source_of(direction))}",
            f"Synthetic {domains.name(target)}, not acquired by a scanner: translated slice by slice from "
            f"{domains.name(source_of(direction))} by a neural network (roi-progressive); values are "
            f"{self.preparation.units(target)}, clipped to {mapping.low:g} to {mapping.high:g}.",
            sources,
        )


def _batches(slices: list[int], size_px: int, device: str) -> Iterator[list[int]]:
    """A few slices at a time: what a network needs of memory does not grow with a scan."""
    pixels = _PIXELS_AT_A_TIME * (1 if device == "cpu" else _TIMES_AS_MANY_ELSEWHERE)
    count = min(_MOST_SLICES_AT_A_TIME, max(1, pixels // size_px**2))
    for first in range(0, len(slices), count):
        yield slices[first : first + count]


def _beyond(values: FloatArray, mapping: IntensityMapping) -> int:
    return int(((values < mapping.low) | (values > mapping.high)).sum())


def _check_free(path: Path | None, force: bool) -> None:
    """Check that a file may be written: there is none of its name, or ``force`` replaces one of ours.

    Results lie among a user's scans, where no record of names is kept: a volume of ours says so in its own header.
    """
    if path is None or not path.exists():
        return
    if not force:
        raise DataError(f"`out` must not exist yet; {str(path)!r} does; choose another, or use --force")
    if not is_ours(path):
        raise DataError(
            f"`out` must not replace another file; {str(path)!r} is not ours, by its header; move it away, or choose "
            f"another name"
        )
