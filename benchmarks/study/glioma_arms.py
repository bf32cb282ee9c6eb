"""The arms of the study on gliomas, trained by the package itself, and how its host trains at 64 and at 128 px."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from roi_progressive import Config, RegionConfig, StageConfig
from roi_progressive.runs.demo import ShuffledMasks
from roi_progressive.runs.train import TrainOptions

from .arms import Arm
from .pixel_classes import PixelClasses
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


TUMOR = RegionConfig("tumor", scales=3, base_channels=8, layers=2, windows_px=(32, 48, 64), context_px=6)


def guided(**changes: Any) -> Config:
    """The tumour's region, with changes, from the third epoch on."""
    return Config(regions=(replace(TUMOR, **changes),), ggd=None, stages=StageConfig(from_epochs=(3,)))


GLIOMA_ARMS: dict[str, Arm] = {
    "plain": Arm("the CycleGAN alone", None),
    "regions": Arm("the tumour with 6 px of context", guided()),
    "context 0": Arm("the tumour without context", guided(context_px=0)),
    "pixel classes": Arm(
        "as regions, and a network that names pixels healthy, tumour or generated",
        guided(),
        plugins=lambda seed: [PixelClasses(seed)],
    ),
    "placebo": Arm("masks shuffled between images", guided(), plugins=lambda seed: [ShuffledMasks(seed)]),
    "pixel placebo": Arm(
        "pixel classes, masks shuffled between images",
        guided(),
        plugins=lambda seed: [ShuffledMasks(seed), PixelClasses(seed)],
    ),
    "ceiling": Arm(
        "the same networks trained on pairs of all training patients",
        None,
        options={"cycle": 0.0, "identity": 0.0},
        plugins=lambda seed: [PairedL1()],
        context=_in_pairs,
        data="paired",
    ),
}
