"""Our losses in a host's log, plots and HTML, and sigma maps among its visuals; nothing of it is ever saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from roi_progressive import Config, GuidedSession, Patches

SIGMA_WHITE = 0.5
"""The standard deviation, in units of the image's range [-1, 1], that a sigma map shows white; 0 is black."""


def loss_names(config: Config, directions: Sequence[str]) -> list[str]:
    """Our terms as the host's log shows them, ``roi_G_tumor_A2B``; all of them, so that plots have their legend."""
    kinds = (("G", "weight"), ("D", "weight"), ("G_pixels", "pixel_weight"), ("D_pixels", "pixel_weight"))
    names = [
        f"roi_{kind}_{region.name}_{direction}"
        for region in config.regions
        for kind, weight in (*kinds, ("G_structure", "structure_weight"))
        if getattr(region, weight) > 0
        for direction in directions
    ]
    ggd = config.ggd is not None and config.ggd.weight > 0
    return names + ([f"roi_ggd_{direction}" for direction in directions] if ggd else [])


def report_losses(model: Any, session: GuidedSession, directions: Sequence[str], patches: Patches) -> None:
    """Add our terms to ``loss_names``; they are read when the host reads its own, and are 0 while not active.

    Args:
        model: The host's; one without ``loss_names`` keeps no log.
        session: Asked for its losses.
        directions: What the model translates.
        patches: Undone when the session closes.
    """
    if not hasattr(model, "loss_names") or not hasattr(model, "get_current_losses"):
        return
    ours: list[str] = []
    shown = list(model.loss_names)
    patches.set(model, "loss_names", shown)

    def add(name: str) -> None:
        ours.append(name)
        shown.append(name)
        patches.set(model, f"loss_{name}", 0.0)

    for name in loss_names(session.config, directions):
        add(name)

    def get_current_losses(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        now = {f"roi_{name}": value for name, value in session.losses().items()}
        for name in now:
            if name not in ours:  # a plugin's term
                add(name)
        for name in ours:
            vars(model)[f"loss_{name}"] = now.get(name, 0.0)
        return original(*args, **kwargs)

    patches.wrap(model, "get_current_losses", get_current_losses)


def report_errors(model: Any, session: GuidedSession, patches: Patches) -> None:
    """Add our terms to what the older dialect's ``get_current_errors`` returns."""
    if not hasattr(model, "get_current_errors"):
        return

    def get_current_errors(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        errors = original(*args, **kwargs)
        errors.update({f"roi_{name}": value for name, value in session.losses().items()})
        return errors

    patches.wrap(model, "get_current_errors", get_current_errors)


def takes_image_alone(generator: nn.Module) -> bool:
    """Whether a generator can be called with an image and nothing else; some need a time step or noise besides."""
    while isinstance(generator, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        generator = generator.module
    needed = [
        parameter
        for parameter in inspect.signature(generator.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) <= 1


def show_sigma(
    model: Any,
    session: GuidedSession,
    sources: Callable[[], Mapping[str, Tensor]],
    generators: Callable[[], Mapping[str, nn.Module]],
    patches: Patches,
    *,
    is_training: bool,
) -> None:
    """Add a sigma map of every direction to ``visual_names``; they are made in ``compute_visuals`` and nowhere else.

    Args:
        model: The host's; one without ``visual_names`` shows nothing.
        session: Asked for its uncertainty.
        sources: The images last translated, by direction.
        generators: The generators by direction; one that cannot be asked by an image alone has no map.
        patches: Undone when the session closes.
        is_training: Whether the heads are only being trained, so that at first they say nothing.
    """
    if not hasattr(model, "visual_names") or not hasattr(model, "compute_visuals"):
        return

    def compute_visuals(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        asked = generators()
        if is_training and not any(name.startswith("ggd_") for name in session.losses()):
            return result  # nothing has been learnt yet, or there is nothing to learn from
        for direction, source in sources().items():
            if direction not in asked or not takes_image_alone(asked[direction]):
                continue
            name = f"sigma_{direction[2:]}"  # of the domain it leads to
            if name not in model.visual_names:
                patches.set(model, "visual_names", [*model.visual_names, name])
                patches.set(model, name, None)
            vars(model)[name] = as_image(session.uncertainty(source, direction).sigma)
        return result

    patches.wrap(model, "compute_visuals", compute_visuals)


def as_image(sigma: Tensor) -> Tensor:
    """A sigma map ``[N, C, H, W]`` as a host shows images, in [-1, 1]: black is 0, white ``SIGMA_WHITE`` or more."""
    return (sigma / SIGMA_WHITE).clamp(0.0, 1.0) * 2.0 - 1.0
