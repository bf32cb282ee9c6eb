"""The arms of the study on real scans, and how its plain CycleGAN trains; tumours alone, since no liver is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor

from roi_progressive import Config, hookimpl
from roi_progressive.host.dataset import UnalignedDataset
from roi_progressive.runs.demo import ShuffledMasks, demo_options
from roi_progressive.runs.train import TrainOptions

from .arms import ARMS, AVERAGED, LIGHT_WEIGHT, TUMOR, TUMOR_ALONE, Arm

TUMOR_PRESET = replace(TUMOR_ALONE, regions=(replace(TUMOR, weight=LIGHT_WEIGHT),))


def scan_options(seed: int, epochs: int) -> TrainOptions:
    """The demo's host, mirrored, since a thigh has no fixed side, and with averaged generators.

    What else was tried on the patients for tuning is told in ``EFFECT.md``.
    """
    return replace(demo_options(seed, epochs), flip=True, **AVERAGED)


class PairedL1:
    """The L1 term of pix2pix, at its published weight, on the data set below."""

    WEIGHT = 100.0

    @hookimpl
    def roi_generator_losses(self, translation: Any) -> dict[str, Tensor]:
        """Mean absolute difference of the generated image and its truth."""
        return {"paired_l1": self.WEIGHT * (translation.fake - translation.real).abs().mean()}


class PairedDataset(UnalignedDataset):
    """With each image of A the one of B at its index, mirrored alike."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image of each domain, of the same slice."""
        A_path, B_path = self.A_paths[index], self.B_paths[index]
        with torch.random.fork_rng(devices=[]):  # so that B's transform draws what A's drew
            A = self.transform_A(Image.open(A_path).convert("L"))
        B = self.transform_B(Image.open(B_path).convert("L"))
        return {"A": A, "B": B, "A_paths": A_path, "B_paths": B_path}


@contextmanager
def _in_pairs() -> Iterator[None]:
    """The bundled host trains unpaired, and no setting changes that: the study alone gives it pairs."""
    with mock.patch("roi_progressive.host.dataset.UnalignedDataset", PairedDataset):
        yield


SCAN_ARMS: dict[str, Arm] = {
    "plain": Arm("the CycleGAN alone", None),
    "regions": Arm(f"the tumour at weight {LIGHT_WEIGHT}, and uncertainty, from the third epoch on", TUMOR_PRESET),
    "placebo": Arm("the same, masks shuffled between images", TUMOR_PRESET, plugins=lambda seed: [ShuffledMasks(seed)]),
    "full_weight": Arm("the same at the phantom's weight", TUMOR_ALONE),
    "studied": Arm("what `train` guides with where no configuration is given, as chosen on gliomas", Config()),
    "ceiling": Arm(
        "the same networks trained on pairs: adversarial and L1 terms as in pix2pix, both ways, without a cycle",
        None,
        options={"cycle": 0.0, "identity": 0.0},
        plugins=lambda seed: [PairedL1()],
        context=_in_pairs,
        data="paired",
        epochs_share=0.5,
    ),
}


def arms_of(settings: Mapping[str, Any]) -> Mapping[str, Arm]:
    """The arms of the study whose ``study.json`` this is."""
    return SCAN_ARMS if "scans" in settings else ARMS
