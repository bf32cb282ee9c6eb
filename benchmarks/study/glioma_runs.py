"""The runs of the study on gliomas: each trained by the package, scored, and kept as one line of numbers.

No image of the collection is kept: slices to train and test on lie in a temporary folder while a run needs them, and
what remains of a run is its line, scores by metric, direction and patient.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roi_progressive.evaluation.aggregation import patient_values
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.evaluation.references import constant_fill, copy_source, mean_image
from roi_progressive.evaluation.scoring import score
from roi_progressive.runs.train import train
from roi_progressive.runs.translate import translate
from roi_progressive.runtime.parallel import Report
from roi_progressive.saving.names import DIRECTIONS
from roi_progressive.saving.records import write_json

from .glioma_arms import GLIOMA_ARMS, glioma_options
from .glioma_data import Gliomas, test_fold, tuning_fold, write_folders

METRICS = ("tpsnr", "tssim", "psnr", "ssim", "texture_ratio", "lost", "inverted", "invented")
REFERENCES = "references"
"""The arm that trains nothing: constant fill, copy of the source, mean image."""

Scores = dict[str, dict[str, dict[str, float]]]
"""By direction, metric and patient."""


@dataclass(frozen=True)
class GliomaRun:
    """One arm from one seed.

    Args:
        arm: Of ``GLIOMA_ARMS``, or ``references``.
        seed: Of networks and data order; with ``tuning`` it chooses the fold too.
        slices: The file that ``Gliomas.save`` wrote.
        line: Where the run's line goes.
        steps: Of the training, rounded to whole epochs.
        tuning: Look at the patients to tune on, and leave those to test on alone.
        patients_a_domain: To train on; 0 for all 20.
        device: ``cpu``, ``cuda``, ...
        shrunk: Networks of a quarter of the channels, for a trial.
    """

    arm: str
    seed: int
    slices: Path
    line: Path
    steps: int
    tuning: bool = False
    patients_a_domain: int = 0
    device: str = "cpu"
    shrunk: bool = False

    @property
    def name(self) -> str:
        """Its key among the runs of the study."""
        return "-".join(str(part) for part in self.key)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells runs apart."""
        return self.arm, self.seed, self.tuning, self.patients_a_domain

    def __call__(self, report: Report) -> None:
        """Train, translate and score, then write the line."""
        slices = Gliomas.load(self.slices)
        fold = tuning_fold(slices.patients, self.seed) if self.tuning else test_fold(slices.patients)
        if self.patients_a_domain:
            fold = fold.shortened(self.patients_a_domain)
        line: dict[str, Any] = {
            "arm": self.arm,
            "seed": self.seed,
            "tuning": self.tuning,
            "patients_a_domain": self.patients_a_domain,
            "device": self.device,
            "size_px": slices.masks.shape[1],
        }
        with tempfile.TemporaryDirectory() as folder:
            write_folders(Path(folder), slices, fold)
            if self.arm == REFERENCES:
                line["references"] = reference_scores(Path(folder) / "data")
            else:
                line |= self._trained(Path(folder), slices.masks.shape[1], report)
        write_json(self.line, line)
        report(1.0, "done")

    def _trained(self, folder: Path, size_px: int, report: Report) -> dict[str, Any]:
        arm = GLIOMA_ARMS[self.arm]
        data, run, begun = folder / arm.data, folder / "run", time.monotonic()
        n_slices = len(list((data / "trainA").iterdir()))
        options = replace(glioma_options(self.seed, n_slices, self.device, size_px, self.steps), **dict(arm.options))
        if self.shrunk:
            options = replace(options, channels=4, depth=2, discriminator_channels=4)
        config, taken = arm.config and replace(arm.config, seed=self.seed), 0

        def count(step: int, steps: int, text: str) -> None:
            nonlocal taken
            taken = step
            if step % 5 == 0:
                report(0.95 * step / steps, text)

        with arm.context():
            train(data, run, options, config, plugins=arm.plugins(self.seed), report=count)
        images = translate(run)
        scores = {d: by_patient(score(pairs_from_folders(data, "test", d, images[d]))) for d in DIRECTIONS}
        return {"steps": taken, "minutes": round((time.monotonic() - begun) / 60, 2), "scores": scores}


def by_patient(scored: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Scores of slices by metric and patient; what is not finite is left out."""
    values = {metric: patient_values(scored, metric) for metric in METRICS}
    return {m: {patient: round(v, 4) for patient, v in of.items() if np.isfinite(v)} for m, of in values.items()}


def reference_scores(data: Path) -> Mapping[str, Scores]:
    """What costs nothing, scored on the test images of a folder."""
    found: dict[str, Scores] = {"constant fill": {}, "copy of the source": {}, "mean image": {}}
    for direction in DIRECTIONS:
        pairs = pairs_from_folders(data, "test", direction, None)
        found["constant fill"][direction] = by_patient(score(constant_fill(pairs, data, "tumor")))
        found["copy of the source"][direction] = by_patient(score(copy_source(pairs)))
        found["mean image"][direction] = by_patient(score(mean_image(pairs, data)))
    return found
