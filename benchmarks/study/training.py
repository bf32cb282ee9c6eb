"""Tumour error over the training, from the generators that each run of the study kept on its way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roi_progressive.evaluation.figures import ARM_COLORS, save_figure
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.evaluation.similarity import region_psnr
from roi_progressive.host import create_model
from roi_progressive.runs.average import average_file
from roi_progressive.runs.folder import Run, history
from roi_progressive.runs.kept_epochs import saved_epoch
from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS
from roi_progressive.saving.records import read_json, write_json

from .gains import Slices, seeds_of

KEPT = "epochs"
SHOWN = ("plain", "placebo", "regions")
GENERATORS = {"A2B": "G_A", "B2A": "G_B"}


def keep_generators(run: Path) -> None:
    """Copy the generators of the last saved epoch, or their averages where the run makes its images with those, which
    the next epoch's would replace; nothing where that was done."""
    epoch = saved_epoch(run)
    for name in GENERATORS.values() if epoch is not None else ():
        kept = run / KEPT / f"{epoch}_net_{name}.pth"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            average = average_file(run / "networks", epoch, name)
            shutil.copy(average if average.exists() else run / "networks" / kept.name, kept)


def kept_epochs(run: Path) -> list[int]:
    """The epochs whose generators a run kept."""
    return sorted(int(path.name.partition("_")[0]) for path in (run / KEPT).glob("*_net_G_A.pth"))


def tumour_psnr(run: Path) -> dict[str, dict[str, float]]:
    """Tumour PSNR on the test slices by direction and kept epoch, means of patients; computed once, then read."""
    known = run / KEPT / "tumour_psnr.json"
    epochs = kept_epochs(run)
    found: dict[str, dict[str, float]] = read_json(known) if known.is_file() else {}
    if epochs and any(sorted(map(int, found.get(direction, {}))) != epochs for direction in DIRECTIONS):
        every = {epoch: _of_epoch(run, epoch) for epoch in epochs}
        found = {direction: {str(epoch): of[direction] for epoch, of in every.items()} for direction in DIRECTIONS}
        write_json(known, found)
    return found


def _of_epoch(run: Path, epoch: int) -> dict[str, float]:
    root = Run.open(run).data
    made = kept_generators(run, epoch)
    return {
        direction: float(np.mean(list(by_patient(made[direction], root, "test", direction).values())))
        for direction in DIRECTIONS
    }


def kept_generators(run: Path, epoch: int) -> dict[str, torch.nn.Module]:
    """The generators that a run kept of an epoch, by direction, ready to translate."""
    host_options = replace(Run.open(run).host_options().for_test(phase="test", epoch=str(epoch)), name=KEPT)
    model = create_model(host_options)
    model.setup(host_options)
    model.eval()
    return {direction: getattr(model, f"net{name}") for direction, name in GENERATORS.items()}


@torch.no_grad()
def by_patient(generator: torch.nn.Module, root: Path, split: str, direction: str) -> dict[str, float]:
    """Tumour PSNR of what a generator makes of the paired slices of a split, means of patients."""
    found: dict[str, list[float]] = {}
    for pair in pairs_from_folders(root, split, direction, None):
        assert pair.source is not None
        source = torch.from_numpy(pair.source / 127.5 - 1.0).float()[None, None]
        fake = ((generator(source)[0, 0].clamp(-1, 1) + 1) * 127.5).round().numpy()
        value = region_psnr(pair.real, fake, pair.mask)
        if value is not None:
            found.setdefault(pair.patient, []).append(value)
    return {patient: float(np.mean(values)) for patient, values in found.items()}


def draw_training(path: Path, out: Path, slices: Slices) -> bool:
    """Tumour PSNR over the epochs, a panel a direction and a line a seed, with the starts of the stages; ``False``
    where no run of plain and the preset kept its generators."""
    from matplotlib.figure import Figure

    curves = {
        (arm, seed): tumour_psnr(out / "runs" / f"{arm}-{seed}") for arm in SHOWN for seed in seeds_of(slices, arm)
    }
    curves = {run: of for run, of in curves.items() if of}
    if not {"plain", "regions"} <= {arm for arm, _ in curves}:
        return False
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    for axis, direction in zip(figure.subplots(1, 2, sharey=True), DIRECTIONS, strict=True):
        for (arm, seed), of in curves.items():
            line = of[direction]
            label = arm if seed == min(s for a, s in curves if a == arm) else None
            color = ARM_COLORS[SHOWN.index(arm)]
            axis.plot([int(epoch) for epoch in line], list(line.values()), ".-", color=color, linewidth=1, label=label)
        for epoch, stage in stage_starts(out / "runs" / f"regions-{max(s for a, s in curves if a == 'regions')}"):
            axis.axvline(epoch, color="0.5", linestyle=":", linewidth=1)
            place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "va": "top"}
            axis.annotate(f"stage {stage}", (epoch, 1), fontsize=7, color="0.4", **place)
        axis.set_title(CT_AND_MR.title(direction), fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("tumour PSNR, dB", fontsize=8)
    figure.axes[0].legend(fontsize=7, frameon=False)
    save_figure(figure, path)
    return True


def stage_starts(run: Path) -> list[tuple[int, int]]:
    """First epoch and number of every stage but the first."""
    epochs: list[Mapping[str, Any]] = history(run)
    numbers = [int(line["stage"]) for line in epochs]
    changed = (place for place in range(1, len(numbers)) if numbers[place] != numbers[place - 1])
    return [(int(epochs[place]["epoch"]), numbers[place]) for place in changed]
