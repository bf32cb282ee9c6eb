"""The arms of the study on gliomas, trained by the package itself, and how its host trains at 64 and at 128 px."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from roi_progressive import Config, RegionConfig
from roi_progressive.runs.demo import ShuffledMasks
from roi_progressive.runs.train import TrainOptions

from .arms import Arm
from .scan_arms import PairedL1, _in_pairs

STEPS = 1560
BATCH_SIZE = 2


def glioma_options(seed: int, slices_a_domain: int, device: str, size_px: int = 64, steps: int = STEPS) -> TrainOptions:
    """The prototypes' host, for so many steps whatever the number of slices."""
    epochs = max(4, round(steps / -(-slices_a_domain // BATCH_SIZE)))
    decay = (epochs + 1) // 3
    return TrainOptions(
        channels=16,
        depth=3 if size_px <= 64 else 4,
        discriminator_channels=16,
        discriminator_layers=2 if size_px <= 64 else 3,
        epochs=epochs - decay,
        decay_epochs=decay,
        batch_size=BATCH_SIZE,
        learning_rate=4e-4,
        cycle=10.0,
        identity=0.0,
        average_decay=0.99,
        flip=False,
        seed=seed,
        save_every_epochs=epochs,
        device=device,
    )


def guided(**changes: Any) -> Config:
    """What ``roi-progressive train`` guides with where no configuration is given, its region with changes."""
    return Config(regions=(RegionConfig.studied("tumor", **changes),))


# What ``roi-progressive train`` does untold, and the study's host does not.
_AS_TRAIN = {"identity": TrainOptions.identity, "flip": TrainOptions.flip}

GLIOMA_ARMS: dict[str, Arm] = {
    "plain": Arm("the CycleGAN alone", None),
    "regions": Arm("the default: patch discriminators with 6 px of context, and a pixel classifier", guided()),
    "plain as train": Arm("the CycleGAN alone, with identity terms and mirroring", None, options=_AS_TRAIN),
    "regions as train": Arm(
        "the default, with identity terms and mirroring", guided(), "plain as train", options=_AS_TRAIN
    ),
    "pixel weight 2": Arm("the same with the pixel classifier at weight 2, as before", guided(pixel_weight=2.0)),
    "patches": Arm("patch discriminators alone", guided(pixel_weight=0.0)),
    "patches, context 0": Arm("patch discriminators alone, without context", guided(pixel_weight=0.0, context_px=0)),
    "pixels": Arm("the pixel classifier alone", guided(weight=0.0)),
    "no sigma": Arm("the default without the uncertainty head", replace(guided(), ggd=None)),
    "placebo": Arm("the default, masks shuffled between images", guided(), plugins=lambda seed: [ShuffledMasks(seed)]),
    "ceiling": Arm(
        "the same networks trained on pairs of all training patients",
        None,
        options={"cycle": 0.0, "identity": 0.0},
        plugins=lambda seed: [PairedL1()],
        context=_in_pairs,
        data="paired",
    ),
}
