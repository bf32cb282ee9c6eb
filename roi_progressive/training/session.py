"""``attach`` and what it returns: ties host, plan, networks and checkpoint together, and holds no maths."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import CheckpointError, ConfigError, HostNotSupportedError, MaskError, ShapeError
from ..method.regions import RegionMask
from ..method.stages import EpochMeans, Stage, StageController
from ..plugins import masks as mask_files
from ..plugins.adapter import Adapter, DomainMasks, Translation, Uncertainty
from ..plugins.manager import Plugins
from ..plugins.patching import Patches
from ..plugins.replay import masked_dataset
from ..runtime.distributed import is_main_process, n_processes
from ..runtime.rng import RandomState
from ..saving.checkpoint import check_config, checkpoint_name, fitting, load_checkpoint, save_checkpoint
from ..saving.state_checks import whole
from .guidance import Guidance
from .idleness import Idleness
from .uncertainty import GGDWrapper

_MARK = "_roi_progressive_attached"
_GUIDED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""The generators of all open sessions."""


def attach(
    host: Any,
    dataset: Any = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    n_epochs: int | None = None,
    plugins: Iterable[Any] = (),
) -> Session:
    """Guide a host's training by its regions.

    Args:
        host: A model object that an adapter understands, or ``{"A2B": generator, "B2A": generator}`` for a script.
        dataset: The host's data set or loader, from whose image files the masks follow; scripts give masks by hand.
        config: A ``Config``, a mapping, or the path of a TOML file; ``Config()`` where not given.
        n_epochs: Length of the run in epochs; a host that knows its own needs none. Of a run that was begun without us
            and goes on guided, the length of the whole: the stages share what is left.
        plugins: Modules or objects with ``hookimpl`` functions, besides those installed.

    Returns:
        The session; call its ``start_epoch`` first in every epoch.

    Raises:
        HostNotSupportedError: No adapter understands the host.
        ConfigError: The configuration or ``n_epochs`` is wrong, or the host has an open session already.
        MaskError: Masks are missing, or cannot follow the images of ``dataset``.
        CheckpointError: The host continues a run, and our file of it is missing or damaged.
        PluginError: A plugin cannot be registered.

    Example:
        >>> import roi_progressive
        >>> from roi_progressive.testing import ToyHost, phantom_config
        >>> host = ToyHost()
        >>> with roi_progressive.attach(host, config=phantom_config()) as session:
        ...     for epoch in range(1, 3):
        ...         stage = session.start_epoch(epoch)
        ...         for batch in host.batches():
        ...             host.step(batch)
        >>> print(stage)
        stage 1 (whole + tumor + ggd)
        >>> sorted(session.losses())
        ['D_tumor_A2B', 'D_tumor_B2A', 'G_tumor_A2B', 'G_tumor_B2A', 'ggd_A2B', 'ggd_B2A']
    """
    settings = _as_config(config)
    manager = Plugins(plugins, defaults=[mask_files])
    adapter = manager.adapter_for(host, settings)
    length = n_epochs if n_epochs is not None else adapter.n_epochs()
    if length is None:
        raise ConfigError("`n_epochs` must be given for this host; got none; give the length of the run in epochs")
    session = Session(adapter, settings, manager, length, adapter.last_epoch() if n_epochs is None else None)
    try:
        session._connect(host, dataset)
    except BaseException:  # also of Ctrl-C: the host is as it was, and the error goes on
        session.close()
        raise
    return session


def _as_config(config: Config | Mapping[str, Any] | str | Path | None) -> Config:
    if config is None:
        return Config()
    if isinstance(config, Config):
        return config
    return Config.from_toml(config) if isinstance(config, (str, Path)) else Config.from_mapping(config)


class Session:
    """A host under guidance. Made by ``attach``; a context manager that closes itself.

    Scripts call ``start_epoch``, ``generator_loss`` and ``discriminator_step``; hosts with an adapter only
    ``start_epoch``. What adapters and plugins may call is ``GuidedSession``.

    Attributes:
        config: The session's configuration.

    Example:
        A script of one generator, with its own loss and two calls of ours in every step:

        >>> import torch
        >>> import roi_progressive
        >>> from roi_progressive.testing import phantom_batch, phantom_config
        >>> generator = torch.nn.Conv2d(1, 1, 3, padding=1)
        >>> optimizer = torch.optim.Adam(generator.parameters())
        >>> session = roi_progressive.attach({"A2B": generator}, config=phantom_config(ggd=None), n_epochs=1)
        >>> _ = session.start_epoch(0)
        >>> batch = phantom_batch()
        >>> fake_B = generator(batch["A"])
        >>> loss = fake_B.abs().mean() + session.generator_loss(
        ...     real_A=batch["A"], fake_B=fake_B, real_B=batch["B"],
        ...     masks_A={"tumor": batch["A_tumor"]}, masks_B={"tumor": batch["B_tumor"]},
        ... )
        >>> loss.backward()
        >>> optimizer.step()
        >>> session.discriminator_step()
        >>> sorted(session.losses())
        ['D_tumor_A2B', 'G_tumor_A2B']
        >>> session.close()
    """

    def __init__(
        self, adapter: Adapter, config: Config, plugins: Plugins, n_epochs: int, last_epoch: int | None = None
    ) -> None:
        self.config = config
        self._adapter = adapter
        self._plugins = plugins
        self._stages = StageController(config, n_epochs, plugins.stages(config, n_epochs), last_epoch=last_epoch)
        self._guidance = Guidance(config, adapter, plugins)
        self._idleness = Idleness(config)
        self._epoch_means = EpochMeans()
        self._arrived: tuple[Mapping[str, Any], torch.device | str] | None = None
        self._batch_in_step: Mapping[str, Any] | None = None
        self._masks: DomainMasks = {"A": {}, "B": {}}
        self._in_step = False
        self._may_train = False
        self._in_epoch = False
        self._n_steps = 0
        self._host_random: RandomState | None = None
        self._patches = Patches()
        self._closed = False

    def _connect(self, host: Any, dataset: Any) -> None:
        if hasattr(host, "__dict__"):
            if _MARK in vars(host):
                raise ConfigError("`host` has an open session already; got a second `attach`; close the first one")
            self._patches.set(host, _MARK, True)
        self._claim_generators()
        self._follow_masks(dataset)
        self._adapter.install(self, self._patches)
        file = self._adapter.resume_file()
        if file is not None and self.config.resume != "fresh":
            self.load_state_dict(load_checkpoint(file))

    def _claim_generators(self) -> None:
        """Two sessions on one network would each guide it, and each think they are alone."""
        try:
            networks = list(self._adapter.generators().values())
        except HostNotSupportedError:  # some make their networks later; they are asked again at the first step
            return
        for network in networks:
            while isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
                network = network.module
            if any(isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) for module in network.modules()):
                raise HostNotSupportedError(
                    f"`host` must translate images [N, C, H, W]; {type(network).__name__} has convolutions of three "
                    f"dimensions, for volumes [N, C, D, H, W]; train on slices"
                )
            if network in _GUIDED:
                raise ConfigError(
                    f"`host` has generators of an open session already ({type(network).__name__}); got a second "
                    f"`attach`; close the first one"
                )
            _GUIDED.add(network)
            self._patches.on_undo(functools.partial(_GUIDED.discard, network))

    def _follow_masks(self, dataset: Any) -> None:
        """Have the samples of ``dataset`` carry the masks that lie in files."""
        regions = [region for region in self.config.regions if region.batch_key is None]
        if dataset is None or not regions or not self._adapter.is_training():
            return
        layout = self._adapter.dataset_layout(dataset)
        if layout is None:
            raise MaskError(
                f"`dataset` must be one whose image files the adapter for a {self._adapter.name} can follow; got "
                f"{type(dataset).__name__}; give the loader that is trained on, or bring the masks in the batch "
                f"(`batch_key`; for scripts: `generator_loss`)"
            )
        masked = masked_dataset(layout, regions, self._plugins.mask_files)
        self._idleness.regions_have_files(masked.regions_with_files)
        self._patches.set(layout.loader, "dataset", masked)

    # -- the two calls of a user's script -------------------------------------------------------------------------

    def start_epoch(self, epoch: int) -> Stage:
        """First line of the epoch loop: move to the epoch's stage.

        Args:
            epoch: In the host's own count.

        Raises:
            ConfigError: The epoch lies before the one the run already stood at, or the session is closed.
        """
        self._check_open()
        if self._host_random is not None:  # came with a loaded state, for the start of its next epoch
            self._host_random.restore()
            self._host_random = None
        self._adapter.epoch_begins()
        self._epoch_over()
        before = self._stages.stage if self._stages.epoch is not None else None
        if self.config.stages.trigger == "plateau":
            self._stages.observe(self._epoch_means.take())
        stage = self._stages.start_epoch(epoch)
        self._in_epoch = True
        self._idleness.plan_known(self._stages)
        if stage != before:
            self._plugins.call("roi_stage_started", stage=stage, session=self)
        return stage

    def generator_loss(
        self,
        *,
        real_A: Tensor | None = None,
        fake_B: Tensor | None = None,
        rec_A: Tensor | None = None,
        idt_B: Tensor | None = None,
        real_B: Tensor | None = None,
        fake_A: Tensor | None = None,
        rec_B: Tensor | None = None,
        idt_A: Tensor | None = None,
        masks_A: Mapping[str, Tensor] | None = None,
        masks_B: Mapping[str, Tensor] | None = None,
        paired: bool = False,
    ) -> Tensor:
        """Our terms for a script's generator loss; add the result to it, just before its backward.

        The discriminators get no gradient from it, and a loss scaled by a GradScaler scales ours alike. Called once a
        step and direction: both at once, or one after the other.

        Args:
            real_A: Images of domain A, ``[N, C, H, W]`` in [-1, 1].
            fake_B: What the generator A2B made of ``real_A``.
            rec_A: What the generator B2A made of ``fake_B``.
            idt_B: What the generator A2B made of ``real_B``.
            real_B: Images of domain B.
            fake_A: What the generator B2A made of ``real_B``.
            rec_B: What the generator A2B made of ``fake_A``.
            idt_A: What the generator B2A made of ``real_A``.
            masks_A: Masks of ``real_A`` by region, ``[N, 1, H, W]``, 1 inside and 0 outside (of soft edges one half
                and more is inside); best on the CPU.
            masks_B: Masks of ``real_B`` by region.
            paired: Whether ``real_A`` and ``real_B`` show the same, pixel by pixel.

        Returns:
            A scalar with our value, to be backpropagated with the loss; zero where no term is active.

        Raises:
            ConfigError: Neither direction is complete, an image is cut off from its generator, or the session is
                closed.
            MaskError: An active region has no masks.
        """
        self._check_open()
        if real_A is None or real_B is None or (fake_B is None and fake_A is None):
            raise ConfigError(
                "`real_A`, `real_B` and at least one of `fake_B`, `fake_A` must be given; give the step's own tensors"
            )
        for name, fake in (("fake_B", fake_B), ("fake_A", fake_A)):
            if fake is not None and not fake.requires_grad:
                raise ConfigError(
                    f"`{name}` must be the generator's own output, with its graph; got a tensor without gradient; give "
                    f"it before any detach(), and leave it out where its generator does not train"
                )
        for name, image in (("real_A", real_A), ("real_B", real_B), ("fake_B", fake_B), ("fake_A", fake_A)):
            _check_is_batch(name, image)
        a, b = _region_masks(masks_A, real_A), _region_masks(masks_B, real_B)
        translations = []
        if fake_B is not None:
            translations.append(
                Translation(
                    "A2B",
                    source=real_A,
                    fake=fake_B,
                    real=real_B,
                    reconstruction=rec_A,
                    identity=idt_B,
                    masks=a,
                    real_masks=b,
                    paired=paired,
                )
            )
        if fake_A is not None:
            translations.append(
                Translation(
                    "B2A",
                    source=real_B,
                    fake=fake_A,
                    real=real_A,
                    reconstruction=rec_B,
                    identity=idt_A,
                    masks=b,
                    real_masks=a,
                    paired=paired,
                )
            )
        self._idleness.looked_at(translations)
        return self._guidance.contribute(translations, self._weights(), in_loss=True)

    def discriminator_step(self) -> None:
        """After the script's own discriminator step: move the region discriminators one step."""
        if not self._closed:
            self.step_finished()
            self.step_started()

    # -- what a user may look at ----------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The stage the run is in."""
        return self._stages.stage

    @property
    def stages(self) -> StageController:
        """The plan and where the run stands in it."""
        return self._stages

    def losses(self) -> dict[str, float]:
        """Our terms of the last step by name (``G_tumor_A2B``, ``D_tumor_A2B``, ``ggd_A2B``, ...), unweighted."""
        return {name: float(loss) for name, loss in self._guidance.losses.items()}

    def loss_tensors(self) -> dict[str, Tensor]:
        """The same as ``losses``, detached and where they were computed: reading one waits for a GPU."""
        return dict(self._guidance.losses)

    @property
    def n_processes(self) -> int:
        """How many processes train the host together (``torch.distributed``); 1 where one trains alone."""
        return n_processes()

    @property
    def dropped_steps(self) -> int:
        """Steps left out so far because an image, a mask or a gradient was infinite or NaN; each was warned of."""
        return self._guidance.dropped.total

    def networks(self) -> list[nn.Module]:
        """Our own networks that were built so far: the region discriminators and the uncertainty heads."""
        return self._guidance.networks()

    def uncertainty(self, source: Tensor, direction: str = "A2B") -> Uncertainty:
        """Translate images and say how sure: image, scale, shape and sigma, each ``[N, C, H, W]``.

        Args:
            source: ``[N, C, H, W]`` in [-1, 1], on the generator's device.
            direction: ``A2B`` or ``B2A``.

        Raises:
            ConfigError: The configuration has no uncertainty head, the host no such direction, or the session is
                closed.
        """
        return self._head(direction).uncertainty(source)

    def standalone(self, example: Tensor, direction: str = "A2B") -> nn.Module:
        """A copy of a generator with its uncertainty head, for ``torch.jit.trace``: source to image and sigma.

        Nothing of the session, and no image it has seen, is in it.

        Args:
            example: An image that the generator takes, ``[N, C, H, W]`` in [-1, 1], on its device.
            direction: ``A2B`` or ``B2A``.

        Raises:
            ConfigError: The configuration has no uncertainty head, the host no such direction, or the session is
                closed.
        """
        return self._head(direction).standalone(example)

    def _head(self, direction: str) -> GGDWrapper:
        self._check_open()
        if self.config.ggd is None:
            raise ConfigError("`ggd` must be configured for uncertainty maps; got none; set a GGDConfig")
        heads = self._guidance.heads()
        if direction not in heads:
            raise ConfigError(f"`direction` must be one of {', '.join(heads)}; got {direction!r}")
        return heads[direction]

    # -- the host's steps, as an adapter reports them (`GuidedSession`) ---------------------------------------------

    def masks_arrived(self, batch: Mapping[str, Any], device: torch.device | str) -> None:
        """The host takes a batch: keep it until a training step asks for its masks (a batch to validate needs none).

        Args:
            batch: The host's, with our masks in it.
            device: Where the host has put the images.
        """
        self._idleness.batch_arrived()
        self._arrived = batch, device

    def step_started(self) -> None:
        """The host's training step begins: its forwards count from here on.

        Raises:
            MaskError: The batch at hand carries no masks.
        """
        self._take_masks()
        self._in_step, self._may_train = True, False
        self._guidance.start()

    def _take_masks(self) -> None:
        if self._arrived is not None:
            batch, device = self._arrived
            self._masks = mask_files.masks_in_batch(batch, self.config.regions, device)
            self._arrived, self._batch_in_step = None, batch

    def step_may_start(self) -> None:
        """A forward begins of which only a backward will tell whether it is trained on."""
        if not self._in_step:
            self._may_train = True
            self._guidance.start()

    def translated(self) -> None:
        """The host's forward is done, its backward to come: lay our gradient on the generated images."""
        if self._may_train and torch.is_grad_enabled():
            self._guidance.await_backward(self._is_trained)
        elif self._in_step and torch.is_grad_enabled():
            self._contribute()

    def _is_trained(self) -> None:
        """A backward is about to run after a forward of which it was not known."""
        self._take_masks()
        self._in_step, self._may_train = True, False
        self._contribute()

    def _contribute(self) -> None:
        weights = self._weights()
        # Where nothing is active, nothing is asked of a host either: it may lack what regions would need.
        if self._guidance.has_terms(weights):
            translations = self._adapter.translations(self._masks)
            for translation in translations:
                for name in ("source", "fake", "real"):
                    _check_is_batch(f"{name} of {translation.direction}", getattr(translation, name))
            self._idleness.looked_at(translations)
            self._guidance.contribute(translations, weights, in_loss=False)

    def step_finished(self, *, if_trained: bool = False) -> None:
        """The host's step is done: move our discriminators.

        Args:
            if_trained: Forget the step where no backward of the host has come by our images.
        """
        if if_trained and not self._guidance.is_collected:
            self.step_abandoned()
            return
        self._in_step = self._may_train = False
        was_guided = self._guidance.finish(self._weights(), self._broken_files)
        self._batch_in_step = None
        if was_guided:
            self._n_steps += 1
            self._idleness.guided()
            if self.config.stages.trigger == "plateau":
                self._epoch_means.add(self._guidance.losses)
            self._plugins.call("roi_step_finished", step=self._n_steps, losses=dict(self._guidance.losses))

    def step_abandoned(self) -> None:
        """The host's step failed: forget it, so that a loop that goes on starts the next one afresh."""
        self._in_step, self._may_train, self._batch_in_step = False, False, None
        self._guidance.abandon()

    def _broken_files(self) -> list[str]:
        """The batch's image files that hold numbers that are not finite; waits for the device."""
        batch = self._batch_in_step
        known = () if batch is None else self._adapter.image_files(batch)
        return [path for path, image in known if not torch.isfinite(image).all()]

    def _weights(self) -> dict[str, float]:
        return {term: weight for term, weight in self._stages.weights().items() if weight > 0}

    # -- what outlives the session: its state as plain values -----------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write our checkpoint; an older file stays whole until the new one is complete.

        Raises:
            CheckpointError: It cannot be written.
        """
        save_checkpoint(Path(path), self.state_dict())
        self._plugins.call("roi_checkpoint_saved", path=Path(path))

    def save_epoch(self, folder: str | Path, epoch: int | str) -> None:
        """Write our checkpoint beside the host's files of an epoch, as ``checkpoint_name`` calls it; of several
        processes the first one writes.

        Args:
            folder: The host's own.
            epoch: In the host's own count, or its own word, such as ``latest``.

        Raises:
            CheckpointError: It cannot be written.
        """
        if is_main_process():
            self.save(Path(folder) / checkpoint_name(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Everything of ours, and with ``resume = "exact"`` the host's moments, pools and random streams."""
        exact = self.config.resume == "exact"
        return {
            "config": json.dumps(self.config.to_mapping()),
            "guidance": self._guidance.state_dict(),
            "stages": self._stages.state_dict(),
            "epoch_means": self._epoch_means.state_dict(),
            "steps": self._n_steps,
            "host": self._adapter.host_state() if exact else None,
            "host_random": RandomState.now().to_plain() if exact else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; networks not yet built are restored at the first step.

        Raises:
            CheckpointError: The state belongs to other regions, or lacks what ``resume = "exact"`` needs.
        """
        with fitting():
            check_config(Config.from_mapping(json.loads(state["config"])), self.config)
            if self.config.resume == "exact" and state["host"] is None:
                raise CheckpointError(
                    '`resume` is "exact", but the checkpoint was saved without it and lacks the host\'s state; '
                    'continue with resume = "networks"'
                )
            self._stages.load_state_dict(state["stages"])
            self._epoch_means.load_state_dict(state["epoch_means"])
            self._n_steps = whole("steps", state["steps"])
            self._guidance.load_state_dict(state["guidance"])
            if self.config.resume == "exact":
                self._adapter.load_host_state(state["host"])
                self._host_random = RandomState.from_plain(state["host_random"])

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take every patch and hook off the host again ("Detach leaves no trace"); a second call does nothing."""
        if not self._closed and self._idleness.saw_batches:
            self._epoch_over()
        self._closed = True
        self._guidance.close()
        self._patches.undo()

    def _epoch_over(self) -> None:
        """Have it said what kept the epoch that was trained here from being guided."""
        if self._in_epoch and self._stages.epoch is not None:
            self._idleness.epoch_over(self._stages.epoch, self._weights(), n_dropped=self.dropped_steps)
        self._in_epoch = False

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("`session` must be open; got a closed one; `attach` anew")


def _check_is_batch(name: str, image: Tensor | None) -> None:
    if image is not None and image.ndim != 4:
        raise ShapeError(
            f"`{name}` must be images [N, C, H, W]; got {list(image.shape)}; images of two dimensions are supported, "
            f"volumes are not: train on slices"
        )


def _region_masks(masks: Mapping[str, Tensor] | None, images: Tensor) -> dict[str, RegionMask]:
    return {name: RegionMask.from_tensor(mask, images.device) for name, mask in (masks or {}).items()}
