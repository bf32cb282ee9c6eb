"""Checks for people's own adapters: what the session relies on, tried on the host itself in a few small steps."""

from __future__ import annotations

import dataclasses
import itertools
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config, RegionConfig, StageConfig
from ..errors import ConfigError, PluginError, one_line
from ..plugins import masks as mask_files
from ..plugins.adapter import Translation
from ..plugins.hookspecs import hookimpl
from ..plugins.manager import Plugins
from ..runtime.rng import RandomState
from ..saving.names import DIRECTIONS
from ..training.session import Session, attach
from .states import attributes_of, differing, n_hooks_of, read, same, state_of, written

MakeHost = Callable[[], tuple[Any, Iterable[Any]]]
Step = Callable[[Any, Any], None]
_NEVER = 10**6


def default_step(host: Any, batch: Any) -> None:
    """A training step of the junyanz dialect."""
    host.set_input(batch)
    host.optimize_parameters()


def check_adapter(
    make_host: MakeHost,
    *,
    step: Step = default_step,
    plugins: Iterable[Any] = (),
    config: Config | None = None,
    n_steps: int = 3,
) -> None:
    """Try an adapter on its host: what it answers, and that a session made with it keeps its promises.

    The host is built five times and trained for a few steps each; make it small. The adapter must answer plausibly,
    leave training bit-equal where no term is active, bring masks and images of one size, have our gradient collected,
    restore every attribute of host and loader at ``close`` and leave no hook, and give a host state that loads.

    Args:
        make_host: Builds the host, every time the same, and the loader it trains on; both are given to ``attach``.
        step: One training step of the host on a batch.
        plugins: With the adapter, where it is not installed under the entry-point group.
        config: With a region that every few batches hold; ``tumor`` in small windows by default.
        n_steps: Steps of each training; the loader must give as many batches.

    Raises:
        PluginError: The adapter does not do what the session relies on; one line names every finding.
        ConfigError: ``config`` names no region.
        RoiProgressiveError: ``attach`` refuses the host.

    Example:
        >>> from roi_progressive.testing import ToyHost, check_adapter, phantom_config
        >>> def make_host():
        ...     host = ToyHost()
        ...     return host, list(host.batches(3))
        >>> check_adapter(make_host, config=phantom_config())
    """
    small = RegionConfig("tumor", scales=1, windows_px=(32, 64, 128, 256, 512), base_channels=4)
    if config is not None and not config.regions:
        raise ConfigError(
            "`config` must name a region that the host's batches hold; got none; leave it out for `tumor`"
        )
    trial = _Trial(make_host, step, tuple(plugins), config or Config(regions=(small,), ggd=None), n_steps)
    before = RandomState.now()
    try:
        # What is answered wrongly would only break what comes after.
        findings = list(trial.answers()) or [*trial.inert(), *trial.guided(), *trial.host_state()]
    finally:
        before.restore()
    if findings:
        raise PluginError(f"`adapter` {trial.name!r} does not do what a session relies on: {'; '.join(findings)}")


class _Recorder:
    """A plugin that looks at every translation."""

    def __init__(self) -> None:
        self.translations: list[Translation] = []

    @hookimpl
    def roi_generator_losses(self, translation: Translation) -> None:
        self.translations.append(translation)


class _Trial:
    def __init__(self, make_host: MakeHost, step: Step, plugins: tuple[Any, ...], config: Config, n_steps: int) -> None:
        self._make_host = make_host
        self._step = step
        self._plugins = plugins
        self._n_steps = n_steps
        first = tuple(dataclasses.replace(region, stage=1) for region in config.regions)
        later = tuple(dataclasses.replace(region, stage=2) for region in config.regions)
        ggd = config.ggd and dataclasses.replace(config.ggd, stage=1)
        self._active = dataclasses.replace(config, regions=first, ggd=ggd, stages=StageConfig(), resume="fresh")
        self._inert = dataclasses.replace(
            self._active,
            regions=later,
            ggd=ggd and dataclasses.replace(ggd, stage=2),
            stages=StageConfig(from_epochs=(_NEVER,)),
        )
        self.name = "adapter"
        self._trained: set[str] = set()
        """Attributes that training alone gives the host or sets anew."""

    def answers(self) -> Iterator[str]:
        """What the adapter says of its host, before anything is trained."""
        host, loader = self._make_host()
        adapter = Plugins(self._plugins, defaults=[mask_files]).adapter_for(host, self._active)
        self.name = adapter.name
        generators = adapter.generators()
        if not generators or any(name[:3] not in DIRECTIONS for name in generators):
            yield f"`generators` must name A2B, B2A or both; got {sorted(generators)}"
        if not all(isinstance(network, nn.Module) for network in generators.values()):
            yield "`generators` must give torch modules"
        rates = adapter.learning_rates()
        if set(rates) != {"generator", "discriminator"} or min(rates.values(), default=-1.0) < 0:
            yield f"`learning_rates` must give generator and discriminator, neither below 0; got {dict(rates)}"
        if not all(0 <= beta < 1 for beta in adapter.betas()):
            yield f"`betas` must be two numbers from 0 to below 1; got {adapter.betas()}"
        if (loss := adapter.generator_loss()) is not None and (not isinstance(loss, Tensor) or loss.ndim):
            yield f"`generator_loss` must be a scalar tensor or None; got {loss!r}"
        if wrong := [name for name, kept in adapter.kept_losses().items() if not isinstance(kept, Tensor)]:
            yield f"`kept_losses` must give tensors by name; got others for {wrong}"
        if (last := adapter.last_epoch()) is not None and not isinstance(last, int):
            yield f"`last_epoch` must be a whole number, or None; got {last!r}"
        if (length := adapter.n_epochs()) is not None and (not isinstance(length, int) or length < 1):
            yield f"`n_epochs` must be a whole number of at least 1, or None; got {length!r}"
        if adapter.is_training() is not True:
            yield f"`is_training` must say True for a host that trains; got {adapter.is_training()!r}"
        if (file := adapter.resume_file()) is not None and not isinstance(file, Path):
            yield f"`resume_file` must be a pathlib.Path, or None for a fresh run; got {file!r}"
        from_files = any(region.batch_key is None for region in self._active.regions)
        if from_files and adapter.dataset_layout(loader) is None:
            yield "`dataset_layout` must describe the loader, or the regions name a `batch_key`; got None"

    def inert(self) -> Iterator[str]:
        """Without an active term the host trains bit for bit as without us, and looks the same after ``close``."""
        alone = self._trained_alone()
        host, loader = self._make_host()
        before, loader_before, n_hooks = attributes_of(host), attributes_of(loader), n_hooks_of(host)
        with self._seeded(), self._attached(host, loader, self._inert, self._plugins) as session:
            session.start_epoch(1)
            self._train(host, loader)
            state = state_of(host)
        if not same(alone, state):
            yield "`install` must not change training where no term is active; the host's networks or streams differ"
        changed = differing(before, attributes_of(host)) - self._trained
        changed |= {f"{name} of the loader" for name in differing(loader_before, attributes_of(loader))}
        changed |= {"hooks of its networks"} if n_hooks_of(host) != n_hooks else set()
        if changed:
            left = ", ".join(sorted(changed))
            yield f"`install` must change the host through `patches` only; left after close: {left}"

    def guided(self) -> Iterator[str]:
        """With an active term masks fit their images, our gradient arrives, and the generators feel it."""
        alone, recorder = self._trained_alone(), _Recorder()
        host, loader = self._make_host()
        with warnings.catch_warnings(record=True) as warned, self._seeded():
            warnings.simplefilter("always")
            with self._attached(host, loader, self._active, (*self._plugins, recorder)) as session:
                session.start_epoch(1)
                self._train(host, loader)
                losses, state = session.losses(), state_of(host)
        if not recorder.translations:
            yield "`install` must call step_started, translated and step_finished; no translation came"
            return
        yield from dict.fromkeys(finding for made in recorder.translations for finding in _faults(made))
        if any("never collected" in str(warning.message) for warning in warned):
            yield "`translations` must give the very tensors the host's backward reaches; our gradient got lost"
        if not any(name.startswith("D_") for name in losses):
            yield "`install` must call masks_arrived with every batch; the last step's held no region"
        elif same(alone, state):
            yield "the generators must feel our gradient; they trained as if alone"

    def host_state(self) -> Iterator[str]:
        """What ``resume = "exact"`` stores is plain, and loading it back changes nothing."""
        host, loader = self._make_host()
        adapter = Plugins(self._plugins, defaults=[mask_files]).adapter_for(host, self._active)
        with self._seeded():
            self._train(host, loader)
        before, file = state_of(host), written(adapter.host_state())
        try:
            adapter.load_host_state(read(file))
        except Exception as error:  # any of a foreign adapter's is what is looked for
            reason = one_line(error)[:120]
            yield f"`host_state` must give tensors and plain values that `load_host_state` takes; got {reason}"
            return
        if not same(before, state_of(host)) or not same(adapter.host_state(), read(file)):
            yield "`load_host_state` must restore what `host_state` gave, and nothing else"

    def _trained_alone(self) -> Any:
        host, loader = self._make_host()
        before = attributes_of(host)
        with self._seeded():
            self._train(host, loader)
            self._trained = differing(before, attributes_of(host))
            return state_of(host)

    def _train(self, host: Any, loader: Iterable[Any]) -> None:
        for batch in itertools.islice(loader, self._n_steps):
            self._step(host, batch)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield

    @contextmanager
    def _attached(self, host: Any, loader: Any, config: Config, plugins: Iterable[Any]) -> Iterator[Session]:
        with attach(host, loader, config, n_epochs=10, plugins=plugins) as session:
            yield session


def _faults(made: Translation) -> Iterator[str]:
    where = f"the translation {made.direction}"
    if made.direction[:3] not in DIRECTIONS:
        yield f"{where} must be A2B or B2A"
    images = {"source": made.source, "fake": made.fake, "real": made.real}
    images |= {name: image for name in ("reconstruction", "identity") if (image := getattr(made, name)) is not None}
    for name, image in images.items():
        if image.ndim != 4 or image.shape[0] != made.fake.shape[0] or image.shape[2:] != made.fake.shape[2:]:
            yield f"`{name}` of {where} must be [N, C, H, W] like `fake`; got {list(image.shape)}"
        elif image.detach().abs().max() > 1.01:
            yield f"`{name}` of {where} must lie in [-1, 1]"
    for name, image, masks in (("masks", made.source, made.masks), ("real_masks", made.real, made.real_masks)):
        for region, mask in masks.items():
            if mask.mask.shape[2:] != image.shape[2:] or mask.mask.shape[0] != image.shape[0]:
                yield f"`{name}` of {where}, {region}, must have their images' size; got {list(mask.mask.shape)}"
