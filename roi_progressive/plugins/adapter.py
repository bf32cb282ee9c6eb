"""The contract between a session and a host: what an adapter answers, what it may call, and what they exchange."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import HostNotSupportedError, RoiProgressiveError, kind_and_line
from ..method.regions import RegionMask
from ..method.stages import Stage
from .patching import Patches

DomainMasks = Mapping[str, Mapping[str, RegionMask]]
"""The masks of a batch, first by the batch's own domain (``A``, ``B``), then by region."""


@dataclass(frozen=True)
class Translation:
    """One direction of one training step. All images are ``[N, C, H, W]`` in [-1, 1].

    Args:
        direction: ``A2B`` or ``B2A``; with letters or digits behind it where a host has several generators a direction
            (``A2B1``, ``A2B2``), each of which has discriminators of its own.
        source: Real images of the source domain.
        fake: What the direction's generator made of them, in the host's live graph.
        real: Real images of the target domain; aligned with ``source`` only where ``paired``.
        reconstruction: What the reverse generator made of ``fake`` (cycle); ``None`` where the host has none.
        identity: What the direction's generator made of ``real``; ``None`` where the host has none.
        masks: Region masks of ``source``, and so of ``fake``: content is kept by translation.
        real_masks: Region masks of ``real``.
        paired: Whether ``real`` is the truth of ``fake``, pixel by pixel.

    Example:
        >>> import torch
        >>> from roi_progressive import RegionMask, Translation
        >>> ct, fake_mr, mr = torch.zeros(3, 2, 1, 32, 32).unbind()
        >>> tumor = torch.zeros(2, 1, 32, 32)
        >>> tumor[0, :, 8:20, 10:18] = 1
        >>> step = Translation("A2B", source=ct, fake=fake_mr, real=mr, masks={"tumor": RegionMask.from_tensor(tumor)})
        >>> step.masks["tumor"].boxes
        ((8, 10, 20, 18), None)
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


class Uncertainty(NamedTuple):
    """An image that a generator made, and how sure it is of every pixel; each ``[N, C, H, W]``.

    Attributes:
        image: The generated image, in [-1, 1].
        scale: α of every pixel, in the image's units.
        shape: β of every pixel (2 is Gaussian, 1 is Laplace).
        sigma: The standard deviation that scale and shape stand for, in the image's units.
    """

    image: Tensor
    scale: Tensor
    shape: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class DatasetLayout:
    """How a host's data set opens its images; the masks follow them through it.

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


class GuidedSession(Protocol):
    """What adapters and plugins may ask of a session, and how an adapter reports the host's steps to it.

    ``Session`` is the one implementation. For each training step of the host an adapter calls, in this order,
    ``masks_arrived`` when the host takes a batch, ``step_started``, ``translated`` after the forward whose images are
    trained on, and ``step_finished``; where the host's step raises, ``step_abandoned`` in place of the last.
    """

    @property
    def config(self) -> Config:
        """The session's configuration."""

    @property
    def stage(self) -> Stage:
        """The stage the run is in."""

    @property
    def n_processes(self) -> int:
        """How many processes train the host together (``torch.distributed``); 1 where one trains alone."""

    def masks_arrived(self, batch: Mapping[str, Any], device: torch.device | str) -> None:
        """Tell that the host takes a batch; its masks are read when a training step begins.

        Args:
            batch: The host's, with our masks in it.
            device: Where the host has put the images.
        """

    def step_started(self) -> None:
        """Tell that a training step of the host begins: the generators' calls count from here on.

        Raises:
            MaskError: The batch at hand carries no masks.
        """

    def step_may_start(self) -> None:
        """Tell that a forward begins of which only a backward will tell whether it is trained on: for hosts whose loops
        call the parts of a step themselves. In place of ``step_started``; nothing happens before that backward."""

    def translated(self) -> None:
        """Tell that the host's forward is done and its backward is to come; the adapter is asked for
        ``translations`` now, and our gradient is laid on their images. Outside a step it does nothing."""

    def step_finished(self, *, if_trained: bool = False) -> None:
        """Tell that the host's training step is done: the region discriminators take theirs.

        Args:
            if_trained: Forget the step where no backward of the host has come by our images: for hosts whose forward
                alone does not tell whether they train.
        """

    def step_abandoned(self) -> None:
        """Tell that the host's training step failed: what was begun is forgotten."""

    def losses(self) -> dict[str, float]:
        """Our terms of the last step by name (``G_tumor_A2B``, ``D_tumor_A2B``, ``ggd_A2B``, ...), unweighted."""

    def uncertainty(self, source: Tensor, direction: str = "A2B") -> Uncertainty:
        """Translate images and say how sure, without changing weights, statistics or random streams.

        Args:
            source: ``[N, C, H, W]`` in [-1, 1], on the generator's device.
            direction: ``A2B`` or ``B2A``.

        Raises:
            ConfigError: No uncertainty head is configured, the host has no such direction, or the session is closed.
        """

    def save(self, path: str | Path) -> None:
        """Write our checkpoint to a file of any name.

        Raises:
            CheckpointError: It cannot be written.
        """

    def save_epoch(self, folder: str | Path, epoch: int | str) -> None:
        """Write our checkpoint beside the host's files of an epoch, as ``checkpoint_name`` calls it; of several
        processes the first one writes.

        Args:
            folder: The host's own.
            epoch: In the host's own count, or its own word, such as ``latest``.

        Raises:
            CheckpointError: It cannot be written.
        """


class Adapter(abc.ABC):
    """What a session asks of a host; one subclass a host family, returned by the hook ``roi_adapter``.

    ``generators``, ``translations``, ``install`` and ``learning_rates`` must be answered; all else has a default.
    `docs/own-host.md` has one for a whole host.

    Example:
        A trainer that translates CT to MR, its adapter, and a session made with it:

        >>> import torch
        >>> import roi_progressive
        >>> from roi_progressive.testing import phantom_batch, phantom_config
        >>> class Trainer:
        ...     def __init__(self):
        ...         self.generator = torch.nn.Conv2d(1, 1, 3, padding=1)
        ...         self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-3)
        ...     def forward(self):
        ...         self.fake = self.generator(self.ct).tanh()
        ...     def step(self, batch):
        ...         self.ct, self.mr = batch["A"], batch["B"]
        ...         self.forward()
        ...         self.optimizer.zero_grad()
        ...         (self.fake - self.mr).abs().mean().backward()
        ...         self.optimizer.step()
        >>> class TrainerAdapter(roi_progressive.Adapter):
        ...     name = "trainer"
        ...     def __init__(self, trainer):
        ...         self.trainer = trainer
        ...     def generators(self):
        ...         return {"A2B": self.trainer.generator}
        ...     def translations(self, masks):
        ...         made = {"source": self.trainer.ct, "fake": self.trainer.fake, "real": self.trainer.mr}
        ...         return [roi_progressive.Translation("A2B", **made, masks=masks["A"], real_masks=masks["B"])]
        ...     def install(self, session, patches):
        ...         def step(original, batch):
        ...             session.masks_arrived(batch, "cpu")
        ...             session.step_started()
        ...             original(batch)
        ...             session.step_finished()
        ...         def forward(original):
        ...             original()
        ...             session.translated()
        ...         patches.wrap(self.trainer, "step", step)
        ...         patches.wrap(self.trainer, "forward", forward)
        ...     def learning_rates(self):
        ...         return {"generator": 1e-3, "discriminator": 1e-3}
        >>> class TrainerPlugin:
        ...     @roi_progressive.hookimpl
        ...     def roi_adapter(self, host):
        ...         return TrainerAdapter(host) if isinstance(host, Trainer) else None
        >>> trainer = Trainer()
        >>> with roi_progressive.attach(
        ...     trainer, config=phantom_config(ggd=None), n_epochs=1, plugins=[TrainerPlugin()]
        ... ) as session:
        ...     stage = session.start_epoch(0)
        ...     trainer.step(phantom_batch())
        ...     print(sorted(session.losses()))
        ['D_tumor_A2B', 'G_tumor_A2B']
    """

    name: str = "adapter"

    @abc.abstractmethod
    def generators(self) -> Mapping[str, nn.Module]:
        """The generators by direction, as the host calls them, wrappers such as DataParallel included; asked at the
        first step."""

    @abc.abstractmethod
    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        """What the host's latest forward made, one ``Translation`` a direction; asked right after it.

        Args:
            masks: Those of the batch at hand, by the batch's own domain names.
        """

    @abc.abstractmethod
    def install(self, session: GuidedSession, patches: Patches) -> None:
        """Patch the host so that it reports its steps to the session.

        Args:
            session: Told of every batch and step, as ``GuidedSession`` says.
            patches: The only way to change the host, so that ``Session.close`` can undo everything.
        """

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

    def last_epoch(self) -> int | None:
        """The last epoch of the host's run in its own count, where its length is counted from the run's start and not
        from where it is continued; ``None`` where the run begins at its start."""
        return None

    def epoch_begins(self) -> None:  # noqa: B027 - optional, and nothing to do by default
        """Called first in ``start_epoch``: the host's steps of the epoch before are over."""

    def generator_loss(self) -> Tensor | None:
        """The scalar that the host trains its generators on, as it holds it now; asked when a backward of the host
        begins. The gradient that arrives there is the factor that the host has put on its loss, and is put on ours.
        ``None``, or one of another pass: what the backward starts from stands for it, see ``kept_losses``."""
        return None

    def kept_losses(self) -> Mapping[str, Tensor]:
        """All scalars that the host holds as losses, by name; asked where a backward starts with a factor. Where
        ``generator_loss`` is none of that backward's, factors in front of one of these are scale, as they are in front
        of a sum; in front of any other term they are its weight, which ours does not get."""
        return {}

    def dataset_layout(self, dataset: Any) -> DatasetLayout | None:
        """How the host's data set reads images; ``None`` where masks cannot follow its files."""
        return None

    def image_files(self, batch: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
        """The file and the image ``[C, H, W]`` of every sample of a batch, where the batch tells; asked when an image
        may be broken."""
        return ()

    def resume_file(self) -> Path | None:
        """Our checkpoint of the run that the host is about to continue (``checkpoint_name`` has the name of an epoch's
        file); ``None`` for a fresh run."""
        return None

    def host_state(self) -> dict[str, Any]:
        """For ``resume = "exact"``: the host's optimizer moments and pools, tensors and plain values only."""
        return {}

    def load_host_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional, and nothing to do by default
        """Restore what ``host_state`` described."""


OWN_ADAPTER = "write an adapter of your own on DialectAdapter (docs/own-host.md), or give {'A2B': G, 'B2A': F}"

_ASKED = (
    *("generators", "translations", "install", "learning_rates", "betas", "n_epochs", "last_epoch", "epoch_begins"),
    *("is_training", "generator_loss", "kept_losses", "dataset_layout", "image_files", "resume_file", "host_state"),
)


def asked_carefully(adapter: Adapter, host: Any) -> Adapter:
    """An adapter whose failures on its host are told as such: a host may look like its family and be another.

    Args:
        adapter: Any; it is changed in place, and given back.
        host: What the user gave to ``attach``.
    """
    for method in _ASKED:
        vars(adapter)[method] = _careful(adapter.name, method, getattr(adapter, method), type(host).__name__)
    return adapter


def _careful(adapter: str, method: str, asked: Callable[..., Any], host: str) -> Callable[..., Any]:
    def ask(*args: Any, **kwargs: Any) -> Any:
        try:
            return asked(*args, **kwargs)
        except RoiProgressiveError:
            raise
        except Exception as error:  # a host that is another than it looks like fails in any way
            raise HostNotSupportedError(
                f"`host` must be what adapter {adapter!r} takes it for; its `{method}` fails on {host}: "
                f"{kind_and_line(error)}; {OWN_ADAPTER}"
            ) from error

    return ask
