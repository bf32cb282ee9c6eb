"""How well is the uncertainty head calibrated on the residual it was trained on? The exact loss and the one around.

    python benchmarks/head_calibration.py [--rounds N] [--json FILE] [--quick]

A generator of the demo's size is trained on pairs of the phantom (24 patients, L1), then frozen. On its features two
heads are trained from the same start on the same batches, on generated minus real (``target = "paired"``): one by the
exact GGD loss, one by the formula in circulation. Both are scored against the same errors, on patients trained on and
on 12 others. Every round is another seed of phantom, generator and batches.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from measure import Spread, parsed, parser, ratios, table, write
from study.arms import circulating_nll
from torch import Tensor
from torch.nn import functional

from roi_progressive import UNetGenerator, ggd_nll, ggd_variance
from roi_progressive.data.phantom import LESION_TYPES, PHASES, phantom_patient
from roi_progressive.evaluation.calibration import (
    bin_statistics,
    expected_calibration_error,
    rank_correlation,
    sparsification_error,
)
from roi_progressive.method.ggd import GGDHead

LOSSES = {"exact": ggd_nll, "in circulation": circulating_nll}
GREY_LEVELS = 127.5
BATCH = 16


@dataclass(frozen=True)
class Slices:
    """Pairs of slices: CT and MR ``[n, 1, H, W]`` in [-1, 1], and the tumours' masks ``[n, H, W]``."""

    ct: Tensor
    mr: Tensor
    mask: Tensor


def make_slices(patients: range, slices: int, size_px: int) -> Slices:
    """Of these patients of the phantom, phases and lesions in turn."""
    every = [
        phantom_patient(
            (7100, number),
            phase=PHASES[number % 3],
            lesion=LESION_TYPES[number // 3 % 3],
            slices=slices,
            size_px=size_px,
        )
        for number in patients
    ]
    ct, mr = (torch.from_numpy(np.concatenate([getattr(one, name) for one in every]))[:, None] for name in ("ct", "mr"))
    return Slices(ct.float(), mr.float(), torch.from_numpy(np.concatenate([one.masks["tumor"] for one in every])))


def trained_generator(pairs: Slices, steps: int, seed: int) -> UNetGenerator:
    """A generator trained on pairs, by L1."""
    torch.manual_seed(seed)
    generator = UNetGenerator(base_channels=16, depth=3)
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = torch.randint(len(pairs.ct), (BATCH,))
        loss = functional.l1_loss(generator(pairs.ct[batch]), pairs.mr[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return generator.eval().requires_grad_(False)


def trained_head(name: str, start: GGDHead, features: Tensor, residual: Tensor, steps: int, seed: int) -> GGDHead:
    """A head trained by the loss called ``name`` from a given start."""
    head = copy.deepcopy(start).requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    chance = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(features), (BATCH,), generator=chance)
        loss = LOSSES[name](residual[batch], *head(features[batch]))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return head.requires_grad_(False)


def scores(head: GGDHead, features: Tensor, fake: Tensor, pairs: Slices) -> dict[str, float]:
    """UCE over all pixels of the slices and over their tumours, in squared grey levels; AUSE and rank correlation."""
    sigma = ggd_variance(*head(features)).sqrt() * GREY_LEVELS
    arrays = [(GREY_LEVELS * (x + 1))[:, 0].numpy() for x in (pairs.mr, fake)]
    every = list(zip(*arrays, sigma[:, 0].numpy(), pairs.mask.numpy(), strict=True))
    image, region = np.sum([bin_statistics(*one) for one in every], axis=0)
    found = {"uce": expected_calibration_error(image), "tumour_uce": expected_calibration_error(region)}
    for key, function in (("ause", sparsification_error), ("sigma_rank", rank_correlation)):
        values = [function(of_slice, made.astype(np.float64) - real) for real, made, of_slice, _ in every]
        found[key] = float(np.mean([value for value in values if value is not None]))
    return {key: float("nan") if value is None else value for key, value in found.items()}


@torch.no_grad()
def seen_by(generator: UNetGenerator, pairs: Slices) -> tuple[Tensor, Tensor]:
    """Features and images of all slices."""
    features = torch.cat([generator.features(part) for part in pairs.ct.split(BATCH)])
    return features, torch.tanh(generator.image_head(features))


def one_round(seed: int, *, quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by the slices scored and by loss."""
    n_train, n_test, slices, size_px = (3, 3, 2, 32) if quick else (24, 12, 9, 64)
    first = seed * (n_train + n_test)
    training = make_slices(range(first, first + n_train), slices, size_px)
    test = make_slices(range(first + n_train, first + n_train + n_test), slices, size_px)
    generator = trained_generator(training, 5 if quick else 300, seed)
    features, fake = seen_by(generator, training)
    residual = fake - training.mr
    heads = {
        name: trained_head(name, generator.ggd_head, features, residual, 20 if quick else 400, seed) for name in LOSSES
    }
    found = {}
    for title, pairs, (of_slices, made) in (
        ("trained on", training, (features, fake)),
        ("others", test, seen_by(generator, test)),
    ):
        found[title] = {name: scores(head, of_slices, made, pairs) for name, head in heads.items()}
    return found


def main() -> None:
    chosen = parsed(parser(__doc__, rounds=3))
    rounds = [one_round(seed, quick=chosen.quick) for seed in range(chosen.rounds)]
    figures = {
        title: {
            **{
                name: {key: Spread.of([one[title][name][key] for one in rounds]) for key in rounds[0][title][name]}
                for name in LOSSES
            },
            "exact / in circulation": {
                key: ratios(*([one[title][name][key] for one in rounds] for name in LOSSES))
                for key in ("uce", "tumour_uce")
            },
        }
        for title in rounds[0]
    }
    rows = [
        [title, name, *(of[key].text() if key in of else "" for key in ("uce", "tumour_uce", "ause", "sigma_rank"))]
        for title, losses in figures.items()
        for name, of in losses.items()
    ]
    print(table(["patients", "loss", "UCE", "UCE, tumours", "AUSE", "rank correlation"], rows))
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
