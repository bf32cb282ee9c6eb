"""The plugin contract: every hook, its arguments and its return. Nothing here runs.

Project and entry-point group: ``roi_progressive``. A hook implementation may take fewer arguments than its
specification names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ..config import Config, RegionConfig
    from ..method.stages import Stage
    from .adapter import Adapter, GuidedSession, Translation

PROJECT = "roi_progressive"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Called once by ``attach``: who understands this host object?

    Args:
        host: What the user gave to ``attach``.
        config: The session's configuration.

    Returns:
        An adapter, or ``None`` to leave the host to others.
    """


@hookspec
def roi_host_lacks(host: Any) -> Mapping[str, Sequence[str]] | None:
    """Called by ``attach`` where no adapter understood the host, for the error message: what did yours miss?

    Args:
        host: What the user gave to ``attach``.

    Returns:
        What the host lacks, attribute by attribute, under the adapter's name; ``None`` says nothing.
    """


@hookspec(firstresult=True)
def roi_discriminator(region: RegionConfig, in_channels: int, smallest_px: int) -> nn.Module | None:
    """Called for each scale of each region and direction: build its network.

    Args:
        region: The region's configuration.
        in_channels: Channels of the input, the mask's included where the region's ``mode`` adds it.
        smallest_px: The smallest input side the network will see at this scale.

    Returns:
        A module from ``[N, in_channels, H, W]`` in [-1, 1] to logits ``[N, 1, h, w]``, or ``None`` for the default,
        ``PatchDiscriminator``. An attribute ``geometry`` (kernel, stride, padding of each layer) gives exact logit
        weights.
    """


@hookspec(firstresult=True)
def roi_masks(path: Path, regions: Sequence[str]) -> Mapping[str, Path | None] | None:
    """Called by ``attach`` for every image file: where are its masks?

    Args:
        path: An image file of the host's data set.
        regions: Names of the regions that need a mask file.

    Returns:
        For each region a mask file of the image's size (above mid-grey is inside), or ``None`` where the image does not
        hold the region; ``None`` in place of the mapping for the default: ``trainA/x.png`` has
        ``trainA_liver/x.png`` and ``trainA_tumor/x.png``.
    """


@hookspec(firstresult=True)
def roi_stages(config: Config, n_epochs: int) -> Sequence[Stage] | None:
    """Called once by ``attach``: the plan of stages.

    Args:
        config: The session's configuration.
        n_epochs: Length of the run.

    Returns:
        Stages numbered from 1, or ``None`` for what ``config.stages`` says, regions joining in order.
    """


@hookspec
def roi_generator_losses(translation: Translation) -> Mapping[str, Tensor] | None:
    """Called in every step for each direction: extra terms of the generator's loss.

    Args:
        translation: Images and masks of one direction; ``fake``, ``reconstruction`` and ``identity`` are detached
            leaves that take the gradient, so nothing here can reach the host's graph or its parameters.

    Returns:
        Differentiable scalars by name, or ``None``; names must differ from each other and from the regions'.
    """


@hookspec
def roi_stage_started(stage: Stage, session: GuidedSession) -> None:
    """Called by ``start_epoch`` when a stage begins, the first one included.

    Args:
        stage: The stage that begins.
        session: The session; a whole ``Session``, of which ``GuidedSession`` says what plugins may rely on.
    """


@hookspec
def roi_step_finished(step: int, losses: Mapping[str, Tensor]) -> None:
    """Called after every step that had an active term.

    Args:
        step: Steps of this session so far, from 1.
        losses: Detached scalars by name, on the images' device; ``.item()`` waits for a GPU.
    """


@hookspec
def roi_checkpoint_saved(path: Path) -> None:
    """Called after our checkpoint was written.

    Args:
        path: The file.
    """


@hookspec
def roi_metrics(real: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> Mapping[str, float] | None:
    """Called for every evaluated slice: extra columns of the evaluation table.

    Args:
        real: ``[H, W]``, 0 to 255.
        fake: ``[H, W]``, 0 to 255.
        mask: ``[H, W]`` bool, the region.

    Returns:
        Numbers by column name, or ``None``.
    """


@hookspec
def roi_volume_metrics(
    real: np.ndarray,
    fake: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing_mm: tuple[float, float, float] | None,
) -> Mapping[str, float] | None:
    """Called for every evaluated volume: extra columns of the table of volumes.

    Args:
        real: ``[slices, rows, columns]``, in HU where it is a CT whose values are known, else in grey levels 0 to 255.
        fake: The same shape and unit.
        masks: Bool arrays of the same shape by name: ``body``, and the region and its organ where there are any.
        spacing_mm: Distance of slices, of rows and of columns; ``None`` where it is not known.

    Returns:
        Numbers by column name, or ``None``.
    """
