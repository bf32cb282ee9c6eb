"""What a host's loader makes of the files: whether masks follow their image, and whether images are as they must be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..config import Config, StageConfig
from ..errors import MaskError
from ..plugins.adapter import Adapter
from ..plugins.replay import MaskedDataset
from ..training.session import attach

N_SAMPLES = 64
TOLERANCE = 1.01
WHITE_SHARE = 0.9
"""Share of pixels at the largest value of all from which a file of 16 bits counts as turned white."""


def all_at_once(config: Config) -> Config:
    """A configuration with every term active from the start, for one step of a fresh run."""
    return dataclasses.replace(
        config,
        regions=tuple(dataclasses.replace(region, stage=1) for region in config.regions),
        ggd=config.ggd and dataclasses.replace(config.ggd, stage=1),
        stages=StageConfig(),
        resume="fresh",
    )


def sample_traps(adapter: Adapter, loader: Any, model: Any, config: Config) -> list[str]:
    """Read samples as a run will, with their masks, until the masks are proved to follow.

    Args:
        adapter: The host's.
        loader: Its loader.
        model: Its model.
        config: The regions.

    Returns:
        What is wrong, a line each.
    """
    layout = adapter.dataset_layout(loader)
    if layout is None or not any(region.batch_key is None for region in config.regions):
        return []
    seen: list[dict[str, Any]] = []
    try:
        with attach(model, loader, all_at_once(config), n_epochs=1):
            dataset = layout.loader.dataset
            assert isinstance(dataset, MaskedDataset)
            for place in range(min(N_SAMPLES, 4 * len(dataset))):
                seen.append(dataset[place % len(dataset)])
                if dataset.is_proved and place >= min(len(dataset), 8):
                    break
            proved, by_difference = dataset.is_proved, dataset.follows_by_difference
    except MaskError as error:
        return [f"masks do not follow: {error}"]
    traps = list(_range_traps(seen, config, layout.domains))
    traps += list(_white_traps(seen, layout.domains))
    if by_difference:
        traps.append(
            "masks are read off where a sample changes with its region, since the loader draws or scales grey levels: "
            "right, but a sample is read three times for each region"
        )
    elif not proved:
        traps.append(
            f"masks could not be proved to follow: in {len(seen)} samples too few showed a region of a dozen pixels in "
            f"each domain"
        )
    return traps


def _range_traps(seen: list[dict[str, Any]], config: Config, domains: tuple[str, ...]) -> Iterator[str]:
    for domain in domains:
        images = [sample[domain] for sample in seen if isinstance(sample.get(domain), Tensor)]
        if not images:
            continue
        low, high = (float(value) for value in torch.aminmax(torch.cat([image.flatten() for image in images])))
        told = f"images of domain {domain} reach from {low:.3g} to {high:.3g}"
        if max(-low, high) > TOLERANCE:
            yield f"{told}; they must lie in [-1, 1]"
        elif low >= 0 and config.background < 0:
            background = f"`background` = {config.background:g} is none of their greys"
            yield f"{told}, not from -1: {background}; scale them to [-1, 1]"


def _white_traps(seen: list[dict[str, Any]], domains: tuple[str, ...]) -> Iterator[str]:
    """Files of 16 bits that a reader of 8 has cut off at 255."""
    for domain in domains:
        for sample in seen:
            path, image = sample.get(f"{domain}_paths"), sample.get(domain)
            if not isinstance(path, str) or not isinstance(image, Tensor) or not Path(path).is_file():
                continue
            with Image.open(path) as file:
                mode = file.mode
            white = (image >= image.max()).float().mean()
            if (mode.startswith("I;16") or mode == "I") and float(white) >= WHITE_SHARE:
                yield (
                    f"{path} has 16 bits, and the host's reader turns {100 * float(white):.0f} % of it white; window "
                    f"the images to 8 bits first"
                )
                break
