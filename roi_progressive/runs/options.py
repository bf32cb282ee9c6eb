"""What a user may set about a training run of the bundled host, checked under the names that the command line uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..data.options import MOST_NEIGHBOURS
from ..errors import ConfigError
from ..evaluation.metrics import Metric
from ..host import HostOptions
from ..host.augmentation import AUGMENTATIONS
from ..host.options import GAN_MODES, LR_POLICIES
from ..loggers import LOGGERS
from ..runtime.devices import check_device_name, check_precision
from .best_metric import KEEP_LAST, metric_to_keep

_WHOLE = {
    **dict.fromkeys(("channels", "discriminator_channels", "batch_size", "save_every_epochs", "log_every"), (1, 2**16)),
    **dict.fromkeys(("depth", "discriminator_layers"), (1, 8)),  # 8 halvings leave one pixel of 256
    "residual_blocks": (1, 64),
    "lr_step_epochs": (1, check.MOST_EPOCHS),
    "pool_size": (0, check.MOST_WINDOWS),
    "crop_px": (0, check.MOST_PX),
    **dict.fromkeys(("epochs", "decay_epochs", "validate_every", "patience"), (0, check.MOST_EPOCHS)),
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
        residual_blocks: Residual blocks of the ResNet.
        discriminator_channels: Channels of the whole-image discriminators' first layer.
        discriminator_layers: Their layers of stride 2.
        epochs: Epochs at the full learning rate.
        decay_epochs: Epochs over which it then falls to zero. With another ``lr_policy`` than ``linear`` only the sum
            of both counts.
        batch_size: Images of each domain a step.
        learning_rate: Learning rate of Adam, for generators and discriminators alike.
        lr_policy: How it falls: ``linear``, ``constant``, ``step`` (to a tenth every ``lr_step_epochs``), ``cosine``
            (to 0 over all epochs) or ``plateau`` (to a fifth where the generators' loss has not fallen by a hundredth
            for more than five epochs).
        lr_step_epochs: Epochs between two falls of ``step``.
        beta1: First momentum of Adam.
        gan_mode: The whole-image discriminators' loss: ``lsgan`` (least squares) or ``vanilla`` (cross entropy). That
            of the regions is ``adversarial`` in the configuration.
        pool_size: Generated images kept for each whole-image discriminator. The regions' pools are ``pool_size`` in the
            configuration.
        cycle: Weight of the cycle terms.
        identity: Weight of the identity terms as a share of the cycle's; 0 saves two of six generator passes.
        average_decay: Decay per step of the moving average of the generators with which images are made; 0 keeps no
            average and makes them with the generators of the last step.
        flip: Mirror half of the images.
        augment: ``none``, ``affine`` (training images turned by up to 10 degrees, scaled by up to a tenth and moved by
            up to a twentieth of their side, at random) or ``elastic`` (bent). Masks follow. Needs the extra
            ``augment``.
        crop_px: Train on windows of this side, cut at random; images are still made of whole slices. 0 cuts nothing.
        neighbours: Slices above, and below, that the networks take and make as further channels (2.5-D); the slice
            itself is the first channel, and alone is shown and scored. ``None`` takes as many as the data set has; 0
            trains on single slices.
        seed: Seed of the networks and of the data order.
        workers: Processes that load images.
        save_every_epochs: How often networks are saved and pictures drawn; the last epoch always is.
        validate_every: After how many epochs the slices of the part ``val`` are scored; the last epoch always is then.
            0 never does.
        keep: ``best:METRIC`` keeps the networks of the epoch with the best validation beside the last ones, by a
            metric of ``evaluate`` such as ``region_psnr`` or ``lpips``, averaged over both directions; ``last`` keeps
            the last alone. ``None`` is ``best:region_psnr``, or ``best:psnr`` for data without regions.
        patience: The run ends when so many validations in a row, in the last stage, brought no better one; 0 never
            ends it.
        logger: Names in ``loggers.LOGGERS``, such as ``("tensorboard",)``: where losses and validations are logged too,
            each in ``<run>/logs/<name>``.
        log_every: After how many steps losses are logged.
        device: ``auto`` (CUDA where there is one, then MPS, then the CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for mixed precision.
        compile: Compile the networks with ``torch.compile``.
        deterministic: On a GPU, take only algorithms that give the same bits every time; slower.
    """

    generator: str = "unet"
    channels: int = 32
    depth: int = 4
    residual_blocks: int = 6
    discriminator_channels: int = 32
    discriminator_layers: int = 3
    epochs: int = 100
    decay_epochs: int = 100
    batch_size: int = 1
    learning_rate: float = 2e-4
    lr_policy: str = "linear"
    lr_step_epochs: int = 50
    beta1: float = 0.5
    gan_mode: str = "lsgan"
    pool_size: int = 50
    cycle: float = 10.0
    identity: float = 0.5
    average_decay: float = 0.99
    flip: bool = True
    crop_px: int = 0
    augment: str = "none"
    neighbours: int | None = None
    seed: int = 0
    workers: int = 0
    save_every_epochs: int = 10
    validate_every: int = 0
    keep: str | None = None
    patience: int = 0
    logger: tuple[str, ...] = ()
    log_every: int = 50
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE.items():
            check.whole("", name, getattr(self, name), low, high)
        for name in ("learning_rate", "cycle", "identity", "average_decay"):
            check.number("", name, getattr(self, name), 0)
        check.number("", "beta1", self.beta1, 0, 0.9999)
        if self.neighbours is not None:
            check.whole("", "neighbours", self.neighbours, 0, MOST_NEIGHBOURS)
        if self.average_decay >= 1:
            raise ConfigError(f"`average_decay` must be under 1; got {self.average_decay!r}; try 0.99")
        for name, choices in (("lr_policy", LR_POLICIES), ("gan_mode", GAN_MODES), ("augment", AUGMENTATIONS)):
            check.choice("", name, getattr(self, name), choices)
        check.choice("", "generator", self.generator, ("unet", "resnet"))
        for name in ("flip", "compile", "deterministic"):
            check.boolean("", name, getattr(self, name))
        check_device_name(self.device)
        check_precision(self.precision)
        if self.epochs + self.decay_epochs == 0:
            raise ConfigError("`epochs` and `decay_epochs` must not both be 0; got 0 and 0; train at least 1 epoch")
        self._check_validation()
        object.__setattr__(self, "logger", tuple([self.logger] if isinstance(self.logger, str) else self.logger))
        for name in self.logger:
            check.choice("", "logger", name, tuple(LOGGERS))

    def _check_validation(self) -> None:
        if self.keep is not None and not isinstance(self.keep, str):
            raise ConfigError(f"`keep` must be last or best:METRIC; got {self.keep!r}")
        if self.keep is not None:
            metric_to_keep(self.keep)
        for name, is_asked in (("keep", self.keep not in (None, KEEP_LAST)), ("patience", self.patience > 0)):
            if is_asked and self.validate_every == 0:
                raise ConfigError(
                    f"`{name}` must go with `validate_every`; got {getattr(self, name)!r} and no validation; say after "
                    f"how many epochs to validate"
                )
        if self.patience > 0 and self.keep == KEEP_LAST:
            raise ConfigError("`patience` must go with a best epoch; got `keep` last; give keep best:METRIC")

    @property
    def keeps_best(self) -> bool:
        """Whether the networks of the best epoch are kept."""
        return self.validate_every > 0 and self.keep != KEEP_LAST

    @property
    def metric(self) -> Metric | None:
        """The metric of ``keep``; ``None`` where it names none."""
        return None if self.keep is None else metric_to_keep(self.keep)

    def host_options(self, data: Path, run: Path, **changes: Any) -> HostOptions:
        """The bundled host's options for a run of ``data`` in the folder ``run``; ``changes`` are further ones."""
        return HostOptions(
            dataroot=str(data),
            checkpoints_dir=str(run),
            name="networks",
            netG=self.generator,
            ngf=self.channels,
            unet_depth=self.depth,
            n_blocks=self.residual_blocks,
            ndf=self.discriminator_channels,
            n_layers_D=self.discriminator_layers,
            n_epochs=self.epochs,
            n_epochs_decay=self.decay_epochs,
            batch_size=self.batch_size,
            lr=self.learning_rate,
            lr_policy=self.lr_policy,
            lr_decay_iters=self.lr_step_epochs,
            beta1=self.beta1,
            gan_mode=self.gan_mode,
            pool_size=self.pool_size,
            lambda_A=self.cycle,
            lambda_B=self.cycle,
            lambda_identity=self.identity,
            no_flip=not self.flip,
            preprocess="crop" if self.crop_px else "none",
            crop_size=self.crop_px or None,
            augment=self.augment,
            neighbours=self.neighbours or 0,
            seed=self.seed,
            num_threads=self.workers,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            **changes,
        )
