"""The bundled trainer's options, under the names the junyanz family of codebases uses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError
from ..runtime.devices import PRECISIONS
from .augmentation import AUGMENTATIONS

LR_POLICIES = ("linear", "constant", "step", "cosine", "plateau")
GAN_MODES = ("lsgan", "vanilla")
_CHOICES = {
    "model": ("cycle_gan",),
    "dataset_mode": ("unaligned",),
    "direction": ("AtoB", "BtoA"),
    "netG": ("unet", "resnet"),
    "netD": ("basic",),
    "preprocess": ("none", "resize", "crop", "resize_and_crop"),
    "augment": AUGMENTATIONS,
    "lr_policy": LR_POLICIES,
    "gan_mode": GAN_MODES,
    "precision": PRECISIONS,
}
_TEXTS = ("dataroot", "name", "checkpoints_dir", "phase", "epoch")
_FLAGS = ("no_flip", "serial_batches", "continue_train", "isTrain", "force", "compile")
_LOWEST_WHOLE = {
    **dict.fromkeys(("input_nc", "output_nc", "ngf", "ndf", "n_layers_D", "n_blocks", "unet_depth"), 1),
    **dict.fromkeys(("batch_size", "epoch_count", "lr_decay_iters"), 1),
    **dict.fromkeys(("num_threads", "n_epochs", "n_epochs_decay", "pool_size", "load_iter", "neighbours"), 0),
}
_OPTIONAL_WHOLE = {"load_size": 1, "crop_size": 1, "max_dataset_size": 1, "seed": 0}
_NOT_NEGATIVE = ("lr", "lambda_A", "lambda_B", "lambda_identity")


@dataclass
class HostOptions:
    """What a training run of the bundled CycleGAN is; checked when it is made.

    Args:
        dataroot: Folder that holds ``<phase>A`` and ``<phase>B``.
        name: The experiment; its checkpoints lie in ``<checkpoints_dir>/<name>``.
        checkpoints_dir: Folder of all experiments.
        model: Only ``cycle_gan``.
        dataset_mode: Only ``unaligned``.
        direction: ``AtoB``, or ``BtoA`` to swap the domains.
        input_nc: Channels of domain A, 1 (grey) or 3 (colour).
        output_nc: Channels of domain B, 1 or 3.
        neighbours: Slices above, and below, that are further channels of an image, in both domains: the networks take
            and make ``1 + 2 * neighbours`` channels, of which the first is the slice itself. Needs grey images.
        ngf: Channels of the generators at full resolution.
        ndf: Channels of the discriminators' first layer.
        netG: ``unet``, the paper's, or ``resnet`` (image sides must then be multiples of 4).
        netD: Only ``basic``, a PatchGAN of ``n_layers_D`` strided layers.
        n_layers_D: 3 sees 70 x 70 px a logit; 2 (34 x 34 px) fits images of 64 px better.
        n_blocks: Residual blocks of ``resnet``.
        unet_depth: How often ``unet`` halves the image.
        batch_size: Images of each domain in a step.
        load_size: Side in px to which ``resize`` scales (both sides).
        crop_size: Side in px of the random window that ``crop`` cuts.
        preprocess: ``none``, ``resize``, ``crop`` or ``resize_and_crop``.
        no_flip: Switch off the random mirroring of training images, left to right.
        augment: ``none``, ``affine`` (training images turned, scaled and moved at random) or ``elastic`` (bent).
        serial_batches: Take the images in order, and B at the index of A.
        num_threads: Worker processes of the loader; 0 loads in the training process.
        max_dataset_size: Most images a domain may have; the first ones are kept. ``None`` keeps all.
        n_epochs: Epochs at the full learning rate.
        n_epochs_decay: Epochs over which it then falls linearly towards zero.
        epoch_count: The first epoch's number; more than 1 when training goes on.
        lr: Learning rate of Adam.
        beta1: First momentum of Adam.
        lr_policy: ``linear`` (the decay above), ``constant``, ``step`` (a tenth every ``lr_decay_iters`` epochs),
            ``cosine`` (half a cosine from ``lr`` to 0 over all epochs) or ``plateau`` (a fifth where ``metric`` of the
            model has not fallen by a hundredth for more than five epochs).
        lr_decay_iters: Epochs between two falls of ``step``; the family calls them so.
        pool_size: Generated images kept for each discriminator; 0 keeps none.
        lambda_A: Weight of the cycle A to B to A.
        lambda_B: Weight of the cycle B to A to B.
        lambda_identity: Weight of the identity terms, as a share of the cycle weights; 0 saves two of six
            generator passes.
        gan_mode: ``lsgan`` (least squares) or ``vanilla`` (cross entropy).
        continue_train: Load the networks of ``epoch`` before training.
        epoch: Which checkpoint to load: a number or ``latest``.
        load_iter: If positive, load ``iter_<load_iter>`` in place of ``epoch``.
        isTrain: Build discriminators, losses and optimizers.
        phase: Prefix of the image folders.
        gpu_ids: GPUs; the first is used, empty means the CPU.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``; where given, ``gpu_ids`` does not count.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for autocast (``fp16`` with a scaler of the losses).
        compile: Compile the networks with ``torch.compile``; worth its minutes in long runs.
        seed: If given, ``create_model`` seeds ``random`` and torch with it before it builds the networks.
        force: Allow a new run to write over the networks of an older one of the same name.

    Raises:
        ConfigError: An option has a wrong type or value, or two do not fit together.
    """

    dataroot: str
    name: str = "experiment"
    checkpoints_dir: str = "checkpoints"
    model: str = "cycle_gan"
    dataset_mode: str = "unaligned"
    direction: str = "AtoB"
    input_nc: int = 1
    output_nc: int = 1
    neighbours: int = 0
    ngf: int = 32
    ndf: int = 32
    netG: str = "unet"
    netD: str = "basic"
    n_layers_D: int = 3
    n_blocks: int = 6
    unet_depth: int = 4
    batch_size: int = 1
    load_size: int | None = None
    crop_size: int | None = None
    preprocess: str = "none"
    no_flip: bool = False
    augment: str = "none"
    serial_batches: bool = False
    num_threads: int = 0
    max_dataset_size: int | None = None
    n_epochs: int = 100
    n_epochs_decay: int = 100
    epoch_count: int = 1
    lr: float = 2e-4
    beta1: float = 0.5
    lr_policy: str = "linear"
    lr_decay_iters: int = 50
    pool_size: int = 50
    lambda_A: float = 10.0
    lambda_B: float = 10.0
    lambda_identity: float = 0.5
    gan_mode: str = "lsgan"
    continue_train: bool = False
    epoch: str = "latest"
    load_iter: int = 0
    isTrain: bool = True
    phase: str = "train"
    gpu_ids: list[int] = field(default_factory=list)
    device: str | None = None
    precision: str = "fp32"
    compile: bool = False
    seed: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        self.dataroot, self.checkpoints_dir = str(self.dataroot), str(self.checkpoints_dir)
        self.epoch = str(self.epoch)
        self.validate()

    def validate(self) -> None:
        """Check all options again, after some were set by hand.

        Raises:
            ConfigError: An option has a wrong type or value, or two do not fit together.
        """
        for key, choices in _CHOICES.items():
            self._expect(key, getattr(self, key) in choices, f"one of {', '.join(choices)}")
        for key in _TEXTS:
            value = getattr(self, key)
            self._expect(key, isinstance(value, str) and value != "", "a non-empty text")
        for key in _FLAGS:
            self._expect(key, isinstance(getattr(self, key), bool), "true or false")
        for key, low in _LOWEST_WHOLE.items():
            self._expect(key, _is_whole(getattr(self, key), low), f"a whole number of at least {low}")
        for key, low in _OPTIONAL_WHOLE.items():
            value = getattr(self, key)
            self._expect(key, value is None or _is_whole(value, low), f"none or a whole number of at least {low}")
        for key in _NOT_NEGATIVE:
            self._expect(key, _is_number(getattr(self, key), float("inf")), "a number of at least 0")
        self._expect("beta1", _is_number(self.beta1, 1.0), "a number from 0 to under 1")
        ids = self.gpu_ids
        self._expect("gpu_ids", isinstance(ids, list) and all(_is_whole(i, 0) for i in ids), "a list of device numbers")
        for key in ("input_nc", "output_nc"):
            self._expect(key, getattr(self, key) in (1, 3), "1 (grey) or 3 (colour)")
        self._validate_together()

    def _validate_together(self) -> None:
        if "resize" in self.preprocess and self.load_size is None:
            raise ConfigError(f"`load_size` must be given for preprocess={self.preprocess!r}; got none; give it in px")
        if "crop" in self.preprocess and self.crop_size is None:
            raise ConfigError(f"`crop_size` must be given for preprocess={self.preprocess!r}; got none; give it in px")
        if self.preprocess == "resize_and_crop" and (self.crop_size or 0) > (self.load_size or 0):
            raise ConfigError(
                f"`crop_size` must be at most `load_size`; got {self.crop_size} and {self.load_size}; "
                f"enlarge `load_size`"
            )
        if self.lambda_identity > 0 and self.input_nc != self.output_nc:
            raise ConfigError(
                f"`lambda_identity` must be 0 where the domains have different channels; got {self.lambda_identity} "
                f"with {self.input_nc} and {self.output_nc} channels; set it to 0"
            )
        if self.neighbours > 0 and (self.input_nc, self.output_nc) != (1, 1):
            raise ConfigError(
                f"`neighbours` must be 0 where images have colours; got {self.neighbours} with {self.input_nc} and "
                f"{self.output_nc} channels; set it to 0"
            )
        if self.isTrain and self.n_epochs + self.n_epochs_decay == 0:
            raise ConfigError("`n_epochs` and `n_epochs_decay` must not both be 0; got 0 and 0; train at least 1 epoch")

    @property
    def channels_A(self) -> int:
        """Channels of domain A as the networks see it, neighbours included."""
        return self.input_nc + 2 * self.neighbours

    @property
    def channels_B(self) -> int:
        """Channels of domain B, likewise."""
        return self.output_nc + 2 * self.neighbours

    def for_test(self, **changes: Any) -> HostOptions:
        """A copy that reads the images of ``testA`` and ``testB`` in order, one by one, without augmentation.

        Args:
            **changes: Further options to set, e.g. ``phase="val"``.

        Raises:
            ConfigError: A change is wrong.
        """
        still: dict[str, Any] = {"serial_batches": True, "no_flip": True, "batch_size": 1, "num_threads": 0}
        still |= {"precision": "fp32", "compile": False}  # images are made in full precision, whatever trained them
        return replace(self, **{"isTrain": False, "phase": "test", "continue_train": False, **still, **changes})

    def _expect(self, key: str, ok: bool, expected: str) -> None:
        if not ok:
            raise ConfigError(f"`{key}` must be {expected}; got {getattr(self, key)!r}")


def _is_whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: Any, under: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < under
