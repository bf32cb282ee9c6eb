"""Is a sigma of the cycle the error of the translation, and what else would say where a lesion is wrong?

    python benchmarks/study_sigma.py OUT.json --gliomas FOLDER [--seeds 11 12 13] [--steps 1560] [--device cpu]

Runs of the study on gliomas with uncertainty heads. The 8 patients to tune on, the few pairs a user may have, calibrate
sigma; then, of the 30 test patients, inside the tumour: the share of the errors in the 90 % interval, the size of sigma
beside the error's, and the rank correlation with the error of sigma and of other signals: how far the image leads back
to its source, how much it changes when the source is mirrored, turned or shifted, the region discriminator's verdict,
and a fit of all of them to the errors of the tuning patients. Only numbers are written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.stats import rankdata
from study.glioma_arms import glioma_options, guided
from study.glioma_data import Fold, Gliomas, read_gliomas, test_fold, tuning_fold, write_folders

from roi_progressive import GGDConfig
from roi_progressive.evaluation.calibration import rank_correlation
from roi_progressive.evaluation.pairs import ImagePair, pairs_from_folders
from roi_progressive.host import create_model
from roi_progressive.runs.average import use_averages
from roi_progressive.runs.calibrate import calibrate
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.folder import Run
from roi_progressive.runs.train import train
from roi_progressive.saving.names import DIRECTIONS, REVERSE

Array = npt.NDArray[Any]
SHOWN = ("sigma_ratio", "region_sigma_ratio", "coverage", "region_coverage", "sigma_rank", "region_sigma_rank", "tpsnr")


def main() -> None:
    """Train, calibrate and look, a seed at a time; what is written already is not done again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--gliomas", type=Path, help="the scans, or a file of slices that `Gliomas.save` wrote")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--steps", type=int, default=1560)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    given = options.gliomas
    slices = Gliomas.load(given) if given.is_file() else read_gliomas(given, 64)
    done = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for seed in options.seeds:
        if str(seed) not in done:
            done[str(seed)] = _of_seed(slices, seed, options.steps, options.device)
            aside = options.out.with_suffix(".partial")
            aside.write_text(json.dumps(done, indent=1), encoding="utf-8")
            os.replace(aside, options.out)
        print(seed, json.dumps(done[str(seed)], indent=1), flush=True)


def _of_seed(slices: Gliomas, seed: int, steps: int, device: str) -> dict[str, Any]:
    config = replace(guided(), ggd=GGDConfig(), seed=seed)
    fold, tuned = test_fold(slices.patients), tuning_fold(slices.patients, 0).scored
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        write_folders(Path(folder), slices, Fold(fold.give_A, fold.give_B, tuned))
        for domain in "AB":
            for kind in ("", "_tumor"):
                (data / f"test{domain}{kind}").rename(data / f"val{domain}{kind}")
        write_folders(Path(folder), slices, fold)
        options = glioma_options(seed, len(list((data / "trainA").iterdir())), device, steps=steps)
        begun = time.monotonic()
        train(data, run, options, config, report=_counted(begun))
        raw = evaluate_run(run, references=(), uncertainty=True, device=device).results["model"]
        calibration = calibrate(run, device=device)
        put_right = evaluate_run(run, references=(), uncertainty=True, device=device).results["model"]
        signals = _signals(Run.open(run), device)
    return {
        direction: {
            "raw": {key: raw[direction]["mean"][key] for key in SHOWN},
            "calibrated": {key: put_right[direction]["mean"][key] for key in SHOWN},
            "left_out": calibration.directions[direction].inside["tumor"].left_out,
            "ranks inside the tumour": signals[direction],
        }
        for direction in DIRECTIONS
    }


def _counted(begun: float) -> Any:
    def report(step: int, steps: int, text: str) -> None:
        if step % 200 == 0:
            print(f"step {step} of {steps}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    return report


# -- what might rank the errors of a lesion ----------------------------------------------------------------------------


def _signals(run: Run, device: str) -> dict[str, dict[str, float]]:
    model = create_model(run.host_options().for_test(epoch=str(run.epoch), device=device))
    model.setup(model.opt)
    if run.options.average_decay > 0:
        use_averages(model, run.networks, run.epoch)
    model.eval()
    generators = {"A2B": model.netG_A, "B2A": model.netG_B}
    found = {}
    for direction in DIRECTIONS:
        forth, back = generators[direction], generators[REVERSE[direction]]
        maps: dict[str, dict[str, list[tuple[dict[str, Array], Array]]]] = {}
        for split in ("val", "test"):
            of_split = maps.setdefault(split, {})
            pairs = pairs_from_folders(run.data, split, direction, run.images(split, direction), "tumor")
            for pair in pairs:
                if pair.mask.any():
                    sigma = np.load(run.sigma(split, direction) / f"{Path(pair.name).stem}.npy")
                    of_pair = {name: shown[pair.mask] for name, shown in _maps(pair, sigma, forth, back).items()}
                    error = (pair.fake.astype(np.float64) - pair.real)[pair.mask]
                    of_split.setdefault(pair.patient, []).append((of_pair, error))
        found[direction] = _ranks(maps["val"], maps["test"])
    return found


@torch.no_grad()
def _maps(pair: ImagePair, sigma: Array, forth: Any, back: Any) -> dict[str, Array]:
    assert pair.source is not None
    source = torch.from_numpy(pair.source / 127.5 - 1.0).float()[None, None].to(next(forth.parameters()).device)
    fake = forth(source)
    led_back = (back(fake) - source).abs()
    variants = [fake]
    for turns in range(4):
        for mirrored in (False, True):
            moved = torch.rot90(source.flip(-1) if mirrored else source, turns, (-2, -1))
            made = torch.rot90(forth(moved), -turns, (-2, -1))
            variants.append(made.flip(-1) if mirrored else made)
    for shift in ((0, 1), (1, 0), (0, -1), (-1, 0), (2, 2), (-2, -2)):
        made = forth(source.roll(shift, (-2, -1))).roll((-shift[0], -shift[1]), (-2, -1))
        variants.append(made)
    again = (forth(back(fake)) - fake).abs()
    grey = pair.fake.astype(np.float64)
    return {
        "sigma": sigma,
        "leads back to the source": _plain(led_back),
        "the same, there again": _plain(again),
        "spread over turned and shifted sources": _plain(torch.stack(variants).std(0)),
        "edges of the image": gaussian_gradient_magnitude(grey, 1.0),
        "edges of the source": gaussian_gradient_magnitude(pair.source.astype(np.float64), 1.0),
        "grey of the image": grey,
        "grey of the source": pair.source.astype(np.float64),
    }


def _plain(shown: torch.Tensor) -> Array:
    return shown[0, 0].double().cpu().numpy() * 127.5


def _ranks(known: Any, asked: Any) -> dict[str, float]:
    """The mean over patients of the rank correlation of each signal with the error, and of their fit."""

    def features(of_pair: dict[str, Array]) -> Array:
        ranks = np.stack([rankdata(of_pair[name]) / of_pair[name].size for name in names])
        values = np.stack([of_pair[name] / 255.0 for name in names])
        first = np.concatenate([ranks, values])
        return np.concatenate([np.ones((1, first.shape[1])), first, first**2]).T

    names = list(next(iter(known.values()))[0][0])
    every = [(features(maps), np.log1p(np.abs(error))) for slices in known.values() for maps, error in slices]
    x, y = np.concatenate([f for f, _ in every]), np.concatenate([e for _, e in every])
    weights = np.linalg.solve(x.T @ x + 1e-2 * len(x) * np.eye(x.shape[1]), x.T @ y)
    signals = {name: (lambda maps, name=name: maps[name]) for name in names}
    signals["all of them, fitted on the tuning patients"] = lambda maps: features(maps) @ weights
    ranks: dict[str, float] = {}
    for name, signal in signals.items():
        of_patients = []
        for slices in asked.values():
            values = [rank_correlation(signal(maps), error) for maps, error in slices]
            of_patients += [np.mean([v for v in values if v is not None])] if any(v is not None for v in values) else []
        ranks[name] = round(float(np.mean(of_patients)), 3)
    return ranks


if __name__ == "__main__":
    main()
