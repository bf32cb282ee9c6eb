"""What a host must answer, and what one direction of one step consists of."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..method.regions import RegionMask
from .patching import Patches

if TYPE_CHECKING:
    from ..training.session import Session

DomainMasks = Mapping[str, Mapping[str, RegionMask]]
"""Masks by the batch's own domain (``A``, ``B``) and region."""


@dataclass(frozen=True)
class Translation:
    """One direction of one training step. All images are ``[N, C, H, W]`` in [-1, 1].

    Args:
        direction: ``A2B`` or ``B2A``.
        source: Real images of the source domain.
        fake: What the direction's generator made of them, in the host's live graph.
        real: Real images of the target domain; aligned with ``source`` only where ``paired``.
        reconstruction: What the reverse generator made of ``fake`` (cycle); ``None`` where the host has none.
        identity: What the direction's generator made of ``real``; ``None`` where the host has none.
        masks: Region masks of ``source``, and so of ``fake``: content is kept by translation.
        real_masks: Region masks of ``real``.
        paired: Whether ``real`` is the truth of ``fake``, pixel by pixel.
    """

    direction: str
    source: Tensor
    fake: Tensor
    real: Tensor
    reconstruction: Tensor | None = None
    identity: Tensor | None = None
    masks: Mapping[str, RegionMask] = field(default_factory=dict)
    real_masks: Mapping[str, RegionMask] = field(default_factory=dict)
    paired: bool = False


@dataclass(frozen=True)
class DatasetLayout:
    """How a host's data set opens its images.

    Args:
        loader: The ``torch.utils.data.DataLoader`` whose data set is wrapped.
        image_modules: Names of the modules in whose namespace the images are opened by ``Image.open``.
        domains: Keys of a sample that hold image tensors, e.g. ``("A", "B")``.
        paths: Every image file of the data set.
    """

    loader: Any
    image_modules: tuple[str, ...]
    domains: tuple[str, ...]
    paths: tuple[str, ...]


class Adapter(abc.ABC):
    """What a session asks of a host; one subclass a host family, returned by the hook ``roi_adapter``."""

    name: str = "adapter"

    @abc.abstractmethod
    def generators(self) -> Mapping[str, nn.Module]:
        """The generators by direction, as the host calls them, wrappers such as DataParallel included; asked at the
        first step."""

    @abc.abstractmethod
    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        """What the host's latest forward made; asked right after it.

        Args:
            masks: Of the batch at hand, by the batch's own domain names.
        """

    @abc.abstractmethod
    def install(self, session: Session, patches: Patches) -> None:
        """Patch the host so that it calls ``session.masks_arrived``, ``step_started``, ``translated`` and
        ``step_finished`` around its own work, and ``step_abandoned`` where that fails; every change goes through
        ``patches``."""

    @abc.abstractmethod
    def learning_rates(self) -> Mapping[str, float]:
        """The host's current rates under ``generator`` and ``discriminator``; read at every step."""

    def betas(self) -> tuple[float, float]:
        """Adam's betas for our optimizers; the host's own."""
        return (0.5, 0.999)

    def n_epochs(self) -> int | None:
        """Length of the host's run, or ``None`` where it does not say."""
        return None

    def is_training(self) -> bool:
        """Whether the host trains; one that only translates needs no masks."""
        return True

    def loss_scale(self) -> float:
        """Factor by which the host multiplies its loss before backward (a GradScaler's); asked when the gradient of the
        generated image arrives."""
        return 1.0

    def dataset_layout(self, dataset: Any) -> DatasetLayout | None:
        """How the host's data set reads images; ``None`` where masks cannot follow its files."""
        return None

    def image_files(self, batch: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
        """The file and the image ``[C, H, W]`` of every sample of a batch, where the batch tells; asked when an image
        may be broken."""
        return ()

    def resume_file(self) -> Path | None:
        """Our checkpoint of the run that the host is about to continue; ``None`` for a fresh run."""
        return None

    def host_state(self) -> dict[str, Any]:
        """For ``resume = "exact"``: the host's optimizer moments and pools, tensors and plain values only."""
        return {}

    def load_host_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional, and nothing to do by default
        """Restore what ``host_state`` described."""
