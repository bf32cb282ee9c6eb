"""What a user may set about a training run of the bundled host, checked under the names that the command line uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..errors import ConfigError
from ..host import HostOptions
from ..runtime.devices import check_device_name, check_precision

_WHOLE = {
    **dict.fromkeys(("channels", "discriminator_channels", "batch_size", "save_every_epochs"), (1, 2**16)),
    **dict.fromkeys(("depth", "discriminator_layers"), (1, 8)),  # 8 halvings leave one pixel of 256
    **dict.fromkeys(("epochs", "decay_epochs"), (0, check.MOST_EPOCHS)),
    "workers": (0, 1024),
    "seed": (0, check.MOST),
}


@dataclass(frozen=True)
class TrainOptions:
    """How the bundled CycleGAN trains.

    Example:
        >>> TrainOptions(epochs=2, decay_epochs=1).learning_rate
        0.0002

    Args:
        generator: ``unet`` (the paper's) or ``resnet``.
        channels: Channels of the generators at full resolution.
        depth: How often the UNet halves the image.
        discriminator_channels: Channels of the whole-image discriminators' first layer.
        discriminator_layers: Their layers of stride 2.
        epochs: Epochs at the full learning rate.
        decay_epochs: Epochs over which it falls to zero.
        batch_size: Images of each domain a step.
        learning_rate: Learning rate of Adam, for generators and discriminators alike.
        cycle: Weight of the cycle terms.
        identity: Weight of the identity terms as a share of the cycle's; 0 saves two of six generator passes.
        average_decay: Decay per step of the moving average of the generators with which images are made; 0 keeps no
            average and makes them with the generators of the last step.
        flip: Mirror half of the images.
        seed: Seed of the networks and of the data order.
        workers: Processes that load images.
        save_every_epochs: How often networks are saved and samples drawn; the last epoch always is.
        device: ``auto`` (CUDA where there is one, then MPS, then the CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for mixed precision.
        compile: Compile the networks with ``torch.compile``.
        deterministic: On a GPU, take only algorithms that give the same bits every time; slower.
    """

    generator: str = "unet"
    channels: int = 32
    depth: int = 4
    discriminator_channels: int = 32
    discriminator_layers: int = 3
    epochs: int = 100
    decay_epochs: int = 100
    batch_size: int = 1
    learning_rate: float = 2e-4
    cycle: float = 10.0
    identity: float = 0.5
    average_decay: float = 0.99
    flip: bool = True
    seed: int = 0
    workers: int = 0
    save_every_epochs: int = 10
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE.items():
            check.whole("", name, getattr(self, name), low, high)
        for name in ("learning_rate", "cycle", "identity", "average_decay"):
            check.number("", name, getattr(self, name), 0)
        if self.average_decay >= 1:
            raise ConfigError(f"`average_decay` must be under 1; got {self.average_decay!r}; try 0.99")
        check.choice("", "generator", self.generator, ("unet", "resnet"))
        for name in ("flip", "compile", "deterministic"):
            check.boolean("", name, getattr(self, name))
        check_device_name(self.device)
        check_precision(self.precision)
        if self.epochs + self.decay_epochs == 0:
            raise ConfigError("`epochs` and `decay_epochs` must not both be 0; got 0 and 0; train at least 1 epoch")

    def host_options(self, data: Path, run: Path, **changes: Any) -> HostOptions:
        """The bundled host's options for a run of ``data`` in the folder ``run``; ``changes`` are further ones."""
        return HostOptions(
            dataroot=str(data),
            checkpoints_dir=str(run),
            name="networks",
            netG=self.generator,
            ngf=self.channels,
            unet_depth=self.depth,
            ndf=self.discriminator_channels,
            n_layers_D=self.discriminator_layers,
            n_epochs=self.epochs,
            n_epochs_decay=self.decay_epochs,
            batch_size=self.batch_size,
            lr=self.learning_rate,
            lambda_A=self.cycle,
            lambda_B=self.cycle,
            lambda_identity=self.identity,
            no_flip=not self.flip,
            seed=self.seed,
            num_threads=self.workers,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            **changes,
        )
