"""Translating with the checkpoints of another code in the junyanz dialect, its networks built by its own checkout."""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..check.checkout import HostCheckout, importing
from ..config import Config
from ..data.framed_scans import FramedScans
from ..data.preparation import read_preparation
from ..errors import CheckpointError, HostNotSupportedError, first_line
from ..plugins.manager import Plugins
from ..runtime.devices import choose_device
from ..saving.locks import resolved
from ..saving.names import REVERSE
from .kept_epochs import LAST
from .volume_translator import Translator

_LATEST = "latest"
"""What these hosts call the networks that were saved last."""
_PLAIN = Config(regions=(), ggd=None, resume="fresh")


@contextlib.contextmanager
def host_translator(
    host: Path,
    checkpoints: Path,
    data: Path,
    arguments: Sequence[str] = (),
    *,
    direction: str | None = None,
    epoch: str = LAST,
    device: str = "auto",
) -> Iterator[Translator]:
    """What translates scans with a host's generators; nothing is written into its checkpoints.

    Args:
        host: The host's checkout.
        checkpoints: The folder of a run of it: its ``--checkpoints_dir`` and ``--name``.
        data: The data set that ``prepare`` wrote and the host was trained on.
        arguments: More of the host's own options, as it was trained with.
        direction: ``A2B`` or ``B2A`` of the data set; ``None`` where each scan's header is to tell.
        epoch: Whose networks, as the host calls them, or ``last``.
        device: Where to compute.

    Raises:
        HostNotSupportedError: The folder holds no code we understand, or whose networks need a first batch.
        CheckpointError: The host cannot load its networks.
        DataError: Nothing says how the slices were made.
    """
    preparation = read_preparation(resolved(data, "data"))
    checkout = HostCheckout(host)
    if checkout.sets_up_in_its_loop:
        raise HostNotSupportedError(
            f"`host` must make its networks without a batch; {str(host)!r} makes them at the first one; give its "
            f"generator to roi_progressive.translate_volume(generator=...) from its own script"
        )
    place = choose_device(device)
    with tempfile.TemporaryDirectory() as scratch, checkout.imported(), importing(host):
        own = ["--dataroot", str(data), "--checkpoints_dir", scratch, "--name", "translate", "--num_threads", "0"]
        with contextlib.redirect_stdout(io.StringIO()):
            opt = checkout.options([*arguments, *own], place)
            opt.isTrain, opt.epoch = False, _LATEST if epoch == LAST else epoch
            opt.checkpoints_dir, opt.name = str(checkpoints.parent), checkpoints.name  # a host writes its options there
            model = _loaded(opt, checkpoints)
        generators = dict(Plugins().adapter_for(model, _PLAIN).generators())
        if getattr(opt, "direction", getattr(opt, "which_direction", "AtoB")) == "BtoA":
            generators = {REVERSE[name]: network for name, network in generators.items()}
        for network in generators.values():
            network.eval()
        framed = FramedScans(resolved(data, "data"))
        yield Translator(preparation, direction, _maker(generators), place, has_sigma=False, framed=framed)


def _loaded(opt: Any, checkpoints: Path) -> Any:
    model = importlib.import_module("models").create_model(opt)
    try:
        if hasattr(model, "setup"):
            model.setup(opt)
    except (OSError, RuntimeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"`run` must be a folder of the host's checkpoints that fit its options; {str(checkpoints)!r} cannot be "
            f"loaded: {first_line(error)}; give the options that it was trained with after --host-options"
        ) from error
    return model


def _maker(generators: dict[str, nn.Module]) -> Callable[[str, Tensor], tuple[Tensor, None]]:
    def make(direction: str, source: Tensor) -> tuple[Tensor, None]:
        if direction not in generators:
            raise HostNotSupportedError(
                f"`direction` must be one that the host translates, {', '.join(generators)}; got {direction}"
            )
        network = generators[direction]
        with torch.no_grad():
            made: Tensor = network(source.expand(-1, _channels(network), -1, -1))
        return made, None

    return make


def _channels(network: nn.Module) -> int:
    """How many channels a network takes: that of its first convolution; hosts make colours of grey pictures."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return 1 if first is None else first.in_channels
