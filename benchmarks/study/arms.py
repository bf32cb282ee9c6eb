"""The arms of the study: one change each, against the preset of the demo or against the plain host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from roi_progressive import Config, GGDConfig, RegionConfig, StageConfig, hookimpl
from roi_progressive.runs.demo import ShuffledMasks, demo_config

PRESET = demo_config()
LIVER, TUMOR = PRESET.regions


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        question: What it is there to answer.
        config: The regions'; ``None`` is the plain host.
        against: The arm it is compared with.
        options: Changes of the host's options.
        plugins: Made from the seed of the run.
        context: Entered while it trains.
        data: The folder of the study that it trains and is tested on.
        epochs_share: Of the study's epochs, where its data have more slices, so that all arms take as many steps.
    """

    question: str
    config: Config | None
    against: str = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)
    plugins: Callable[[int], list[Any]] = lambda seed: []
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    data: str = "data"
    epochs_share: float = 1.0


class RegionL1:
    """What users try first: an L1 term on the tumour alone, here of the cycle, since no pairs are known."""

    WEIGHT = 10.0

    @hookimpl
    def roi_generator_losses(self, translation: Any) -> dict[str, Tensor]:
        """Mean absolute difference of reconstruction and source over the tumours of the batch."""
        inside = translation.masks["tumor"].mask.float()
        error = (translation.reconstruction - translation.source).abs() * inside
        return {"region_l1": self.WEIGHT * error.sum() / inside.sum().clamp_min(1.0)}


def circulating_nll(
    residual: Tensor, scale: Tensor, shape: Tensor, *, reduction: str = "mean", epsilon: float = 1e-9
) -> Tensor:
    """The loss of the code in circulation, ``|r| (1 / alpha) beta``, where the likelihood raises to the power beta."""
    loss = residual.abs() / scale * shape - torch.log(shape / scale) + torch.lgamma(1.0 / shape)
    return loss if reduction == "none" else loss.mean()


@contextmanager
def _circulating() -> Iterator[None]:
    """No setting reaches the formula, and none should: the study alone puts the wrong one in its place."""
    with mock.patch("roi_progressive.training.uncertainty.ggd_nll", circulating_nll):
        yield


def _regions(**changes: Any) -> Config:
    return replace(PRESET, regions=tuple(replace(region, **changes) for region in PRESET.regions))


def _alone(region: RegionConfig) -> Config:
    return replace(PRESET, regions=(region,), stages=StageConfig(from_epochs=(3,)))


def _ggd(**changes: Any) -> Config:
    return replace(PRESET, ggd=replace(PRESET.ggd or GGDConfig(), **changes))


TUMOR_ALONE = _alone(TUMOR)
LIGHT_WEIGHT = 0.3
"""Of the tumour: what did best on the patients for tuning among the scans (``EFFECT.md`` has the figures)."""
AVERAGED = {"average_decay": 0.99}
WITHOUT_PROGRESSION = replace(
    _regions(stage=1), ggd=replace(PRESET.ggd or GGDConfig(), stage=1), stages=StageConfig(fade_fraction=0.0)
)
ROI_L1 = Config(regions=(replace(TUMOR, weight=0.0, stage=1),), ggd=None)

ARMS: dict[str, Arm] = {
    "plain": Arm("the CycleGAN alone", None),
    "regions": Arm("the preset: liver and tumour, stage by stage, uncertainty", PRESET),
    "placebo": Arm("the preset, masks shuffled between images", PRESET, plugins=lambda seed: [ShuffledMasks(seed)]),
    "liver": Arm("the liver alone", _alone(LIVER)),
    "tumor": Arm("the tumour alone", TUMOR_ALONE),
    "at_once": Arm("the preset without progression: all from the first step", WITHOUT_PROGRESSION, "regions"),
    "no_fade": Arm(
        "terms join at full weight", replace(PRESET, stages=replace(PRESET.stages, fade_fraction=0.0)), "regions"
    ),
    "mask": Arm("the whole image, outside painted", _regions(roi_mode="mask"), "regions"),
    "concat": Arm("a window with the mask as a channel", _regions(roi_mode="concat"), "regions"),
    "plain_logits": Arm("all logits count alike", _regions(logits="plain"), "regions"),
    "mean_logits": Arm("the map averaged before the loss, as printed", _regions(logits="mean"), "regions"),
    "balance": Arm("our gradient at most half the host's", replace(PRESET, balance=0.5), "regions"),
    "no_ggd": Arm("without the uncertainty head", replace(PRESET, ggd=None), "regions"),
    "ggd_cycle": Arm("uncertainty of the cycle, ten times the weight", _ggd(target="cycle", weight=1.0), "regions"),
    "ggd_circulating": Arm("uncertainty by the formula in circulation", PRESET, "regions", context=_circulating),
    "paper_weights": Arm(
        "every weight 1, as the paper", replace(_regions(weight=1.0), ggd=GGDConfig(weight=1.0, stage=2))
    ),
    "gentle": Arm(
        f"the tumour's weight {LIGHT_WEIGHT}, as on scans",
        replace(PRESET, regions=(LIVER, replace(TUMOR, weight=LIGHT_WEIGHT))),
        "regions",
    ),
    "plain_averaged": Arm("the CycleGAN alone, images by the generators' moving average", None, options=AVERAGED),
    "averaged": Arm("the preset, likewise", PRESET, "plain_averaged", options=AVERAGED),
    "roi_l1": Arm("no discriminator, L1 of the cycle in the tumour", ROI_L1, plugins=lambda seed: [RegionL1()]),
    "plain_resnet": Arm("the CycleGAN alone, ResNet generators", None, options={"generator": "resnet"}),
    "regions_resnet": Arm("the preset, ResNet generators", PRESET, "plain_resnet", options={"generator": "resnet"}),
}
MAIN = ("plain", "regions", "placebo")
