"""What a user may set: frozen dataclasses, read from Python, a mapping or a TOML file.

Nothing here imports torch, so a configuration can be written and checked anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import setting_checks as check
from .errors import ConfigError, UnreadableError, parsed

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the standard library has it from 3.11 on
    import tomli as tomllib

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RegionMode:
    """How a discriminator is shown a region. Everything that depends on the mode reads this record.

    In every mode the gradient on the image is zero outside the mask and its ``context_px``.

    Args:
        whole_image: Its window is the whole image, which must be large enough for all scales; otherwise it is the
            smallest window of the ladder ``windows_px`` that holds the region.
        shows_outside: What lies outside the mask and its context is shown as it is, cut off from the gradient;
            otherwise it is painted with the background.
        extra_channels: Channels that follow the image's own; 1 for the mask, or 0.
    """

    whole_image: bool = False
    shows_outside: bool = False
    extra_channels: int = 0


ROI_MODES: dict[str, RegionMode] = {
    # A window around the region, its outside painted.
    "crop": RegionMode(),
    # The whole image, the region's outside painted.
    "mask": RegionMode(whole_image=True),
    # A window left as it is, the mask as one more channel.
    "concat": RegionMode(shows_outside=True, extra_channels=1),
}


@dataclass(frozen=True)
class AdversarialLoss:
    """Three functions from logits to losses of the same shape, element by element.

    Args:
        generator: Small where generated images pass for real.
        real: The discriminator's loss on real images.
        fake: The discriminator's loss on generated images.
    """

    generator: Callable[[Tensor], Tensor]
    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]


def _softplus(logits: Tensor) -> Tensor:
    from torch.nn.functional import softplus  # here, so that a configuration can be read without torch

    return softplus(logits)


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    # Mao et al. 2017; the paper's eq. 3 to 8.
    "least_squares": AdversarialLoss(
        generator=lambda logits: (logits - 1).square(),
        real=lambda logits: (logits - 1).square(),
        fake=lambda logits: logits.square(),
    ),
    # Goodfellow et al. 2014, with the generator's loss that does not saturate.
    "vanilla": AdversarialLoss(
        generator=lambda logits: _softplus(-logits),
        real=lambda logits: _softplus(-logits),
        fake=lambda logits: _softplus(logits),
    ),
    # Lim and Ye 2017.
    "hinge": AdversarialLoss(
        generator=lambda logits: -logits,
        real=lambda logits: (1 - logits).relu(),
        fake=lambda logits: (1 + logits).relu(),
    ),
}

GGD_TARGETS = ("auto", "paired", "cycle", "identity")

_Section = TypeVar("_Section", "RegionConfig", "GGDConfig", "StageConfig")


@dataclass(frozen=True)
class RegionConfig:
    """One named region of interest and the discriminator that judges it.

    Args:
        name: The region's name; its masks lie in ``<image folder>_<name>/`` unless a plugin says otherwise.
        scales: Pyramid levels the discriminator sees: 1, 1/2, 1/4, ... (paper: liver 2, tumour 3).
        weight: Factor of the region's adversarial term in the generator's loss.
        stage: The stage, counted from 1, at which the region joins; ``None`` gives the first region
            stage 2, the next stage 3, and so on.
        roi_mode: How the discriminator is shown the region, by its name in ``ROI_MODES``: ``crop`` (a window, outside
            the mask painted), ``mask`` (the whole image, outside painted), ``concat`` (a window left as it is, the
            mask as one more channel).
        windows_px: The ladder of window sides; each sample takes the smallest that holds its region.
        margin_px: Border kept free between the region and the window's edge.
        context_px: How far around the mask the image stays visible to the discriminator; it is also
            how far outside the mask the gradient of its term may reach.
        base_channels: Channels of the discriminator's first layer.
        layers: Most stride-2 layers a scale may have; small windows get fewer.
        all_strided: Every layer has stride 2, as the paper prints; otherwise the last two have stride 1.
        logits: ``weighted`` counts each logit by how much of the region it sees, ``plain`` counts all alike,
            ``mean`` averages the map before the loss, as the paper prints.
        scale_reduction: ``mean`` or ``sum`` over the pyramid levels.
        missing: What to do where there is no mask: ``error``, or ``skip`` (the image counts as without region).
        batch_key: Key under which the host's own batch already carries this region's masks, with ``{domain}``
            standing for A or B, e.g. ``"{domain}_mask"``; ``None`` reads mask files.
        pixel_weight: Factor of a second term in the generator's loss: a small UNet names every pixel "rest", "region"
            or "generated", and the generator is asked for pixels named as the mask says (after Sushko et al. 2021,
            OASIS). 0 for none; ``weight = 0`` and this leaves the region to the pixel classifier alone.
        pixel_reach_px: How far outside the mask that term counts and its gradient may reach; ``None`` for the whole
            image.
        pixel_channels: Channels of the pixel classifier at full resolution.
        structure_weight: Factor of a third term: the mean absolute difference of the self-similarities (MIND,
            Heinrich et al. 2012) of generated image and source over the region and its ``context_px``, beyond which
            its gradient is zero; 0 for none.
    """

    name: str
    scales: int = 3
    weight: float = 1.0
    stage: int | None = None
    roi_mode: str = "crop"
    windows_px: tuple[int, ...] = (32, 48, 64, 96, 128, 192, 256)
    margin_px: int = 4
    context_px: int = 0
    base_channels: int = 32
    layers: int = 3
    all_strided: bool = False
    logits: str = "weighted"
    scale_reduction: str = "mean"
    missing: str = "error"
    batch_key: str | None = None
    pixel_weight: float = 0.0
    pixel_reach_px: int | None = None
    pixel_channels: int = 8
    structure_weight: float = 0.0

    def __post_init__(self) -> None:
        where = f"regions[{self.name!r}]"
        check.name(self.name)
        check.whole(where, "scales", self.scales, low=1, high=6)
        check.number(where, "weight", self.weight, low=0.0)
        if self.stage is not None:
            check.whole(where, "stage", self.stage, low=1, high=check.MOST_STAGES)
        check.choice(where, "roi_mode", self.roi_mode, tuple(ROI_MODES))
        check.windows(where, self.windows_px, self.scales)
        check.whole(where, "margin_px", self.margin_px, low=0, high=check.MOST_PX)
        check.whole(where, "context_px", self.context_px, low=0, high=check.MOST_PX)
        check.whole(where, "base_channels", self.base_channels, low=1, high=check.MOST_CHANNELS)
        check.whole(where, "layers", self.layers, low=1, high=6)
        check.boolean(where, "all_strided", self.all_strided)
        check.choice(where, "logits", self.logits, ("weighted", "plain", "mean"))
        check.choice(where, "scale_reduction", self.scale_reduction, ("mean", "sum"))
        check.choice(where, "missing", self.missing, ("error", "skip"))
        if self.batch_key is not None:
            check.template(where, "batch_key", self.batch_key)
        check.number(where, "pixel_weight", self.pixel_weight, low=0.0)
        if self.pixel_reach_px is not None:
            check.whole(where, "pixel_reach_px", self.pixel_reach_px, low=0, high=check.MOST_PX)
        check.whole(where, "pixel_channels", self.pixel_channels, low=1, high=check.MOST_CHANNELS)
        check.number(where, "structure_weight", self.structure_weight, low=0.0)

    @classmethod
    def studied(cls, name: str, **changes: Any) -> RegionConfig:
        """A region as it was guided best in the study on real scans (``benchmarks/EFFECT.md``).

        It has a pixel classifier, 6 px of context, and networks too small to know a few dozen patients by heart.

        It gained most on gliomas, whose contrast a plain CycleGAN inverts or loses. In a short trial on sarcomas (CT
        and MR, eleven patients a domain, two seeds of 300 steps) it lost 2 and 3 dB where a gentler region
        (``weight=0.3``, no context, no pixel classifier) gained 1.5 and lost 0.4: compare on patients of your own.

        Args:
            name: The region's name.
            **changes: Other settings.

        Example:
            >>> region = RegionConfig.studied("tumor")
            >>> region.context_px, region.pixel_weight
            (6, 4.0)
        """
        return cls(**{"name": name, "context_px": 6, "pixel_weight": 4.0, "base_channels": 8, "layers": 2, **changes})

    @property
    def mode(self) -> RegionMode:
        """The record of its ``roi_mode``."""
        return ROI_MODES[self.roi_mode]


@dataclass(frozen=True)
class GGDConfig:
    """The generalized-Gaussian uncertainty head and its loss (paper, eq. 1).

    Args:
        target: What the residual is taken against: ``paired`` (generated against real), ``cycle``
            (reconstruction against source), ``identity``, or ``auto``: the data decide.
        weight: Factor of the term in the generator's loss.
        stage: Stage at which the term joins, from 1.
        hidden_channels: Width of the head on a foreign generator (the paper's generator has its own).
        min_scale: Floor of the scale map, in units of the image's range [-1, 1].
        shape_range: Bounds of the shape map (2 is Gaussian, 1 Laplace).
        epsilon: Smoothing of the residual's absolute value; at most ``min_scale``.
        learning_rate_factor: The head's learning rate as a multiple of the host generator's.
    """

    target: str = "auto"
    weight: float = 0.1
    stage: int = 1
    hidden_channels: int = 32
    min_scale: float = 1e-3
    shape_range: tuple[float, float] = (0.2, 8.0)
    epsilon: float = 1e-9
    learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        check.choice("ggd", "target", self.target, GGD_TARGETS)
        check.number("ggd", "weight", self.weight, low=0.0)
        check.whole("ggd", "stage", self.stage, low=1, high=check.MOST_STAGES)
        check.whole("ggd", "hidden_channels", self.hidden_channels, low=1, high=check.MOST_CHANNELS)
        check.number("ggd", "min_scale", self.min_scale, low=1e-6, high=1.0)
        check.shape_range(self.shape_range)
        check.number("ggd", "epsilon", self.epsilon, low=0.0, high=self.min_scale)
        check.number("ggd", "learning_rate_factor", self.learning_rate_factor, low=0.0, high=check.LARGEST_FACTOR)


@dataclass(frozen=True)
class StageConfig:
    """When the stages begin.

    Args:
        from_epochs: First epochs of stage 2, 3, ..., in the host's own count; ``None`` leaves it to the next setting.
        joined_by_fraction: Share of the run by which the last stage has begun; the stages follow one another at equal
            distances until then. ``None``, ``false`` in a TOML file, makes all stages equally long, as the paper does.
        fade_fraction: Share of the run over which a term that joins after the first epoch rises linearly to its weight.
        trigger: ``progress`` follows the plan; ``plateau`` moves on early when the newest regions' loss
            has stopped improving (never later than the plan).
        patience_epochs: With ``plateau``: epochs without improvement that end a stage.
        min_improvement: With ``plateau``: relative improvement that counts as one.
    """

    from_epochs: tuple[int, ...] | None = None
    joined_by_fraction: float | None = 0.15
    fade_fraction: float = 0.1
    trigger: str = "progress"
    patience_epochs: int = 5
    min_improvement: float = 0.01

    def __post_init__(self) -> None:
        if self.from_epochs is not None:
            check.from_epochs(self.from_epochs)
        if self.joined_by_fraction is not None:
            check.number("stages", "joined_by_fraction", self.joined_by_fraction, low=0.0, high=1.0)
        check.number("stages", "fade_fraction", self.fade_fraction, low=0.0, high=1.0)
        check.choice("stages", "trigger", self.trigger, ("progress", "plateau"))
        check.whole("stages", "patience_epochs", self.patience_epochs, low=1, high=check.MOST_EPOCHS)
        check.number("stages", "min_improvement", self.min_improvement, low=0.0, high=1.0)


@dataclass(frozen=True)
class Config:
    """Everything a session needs to know; the default guides one region, ``tumor``.

    Where each default is from, the paper or the study, is told with the figures at the end of ``benchmarks/EFFECT.md``:
    ``crop``, ``weighted`` logits, the fade and no ``balance`` are the study's best, the other choices one switch away.

    Args:
        regions: The regions of interest, in the order in which they join. Empty means none.
        ggd: The uncertainty head, or ``None`` for none.
        stages: When the stages begin.
        adversarial: A name in ``ADVERSARIAL_LOSSES``: ``least_squares`` (the paper's), ``vanilla`` or ``hinge``.
        balance: Cap of our gradient's norm on an image as a share of the host's own; ``None`` for no cap.
        pool_size: Generated windows kept per region and direction for the discriminators; 0 for none.
        background: The grey value painted outside a mask, in [-1, 1].
        resume: ``networks`` restores what is ours; ``fresh`` nothing; ``exact`` the host's optimizer moments, pools and
            random streams too.
        seed: Seed of our own random streams; the host's are never touched.
        compile: Have ``torch.compile`` make kernels of the region discriminators. Each window size is compiled for
            itself, which takes minutes; worth it on a GPU, in long runs of few sizes.

    A wrong value raises a ``ConfigError`` that names its setting.

    Example:
        >>> config = Config.from_mapping({"regions": [{"name": "tumor", "scales": 2}], "ggd": False})
        >>> config.regions[0].mode
        RegionMode(whole_image=False, shows_outside=False, extra_channels=0)
        >>> Config.from_mapping(config.to_mapping()) == config
        True
        >>> Config.from_mapping({"pool": 50})
        Traceback (most recent call last):
        roi_progressive.errors.ConfigError: `pool` is not a setting; did you mean `pool_size`?
    """

    regions: tuple[RegionConfig, ...] = field(default_factory=lambda: (RegionConfig.studied("tumor"),))
    ggd: GGDConfig | None = field(default_factory=GGDConfig)
    stages: StageConfig = field(default_factory=StageConfig)
    adversarial: str = "least_squares"
    balance: float | None = None
    pool_size: int = 50
    background: float = -1.0
    resume: str = "networks"
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.regions, tuple) or not all(isinstance(r, RegionConfig) for r in self.regions):
            raise ConfigError(
                f"`regions` must be a tuple of RegionConfig; got {self.regions!r}; "
                f"write regions=(RegionConfig('tumor'),)"
            )
        names = [region.name for region in self.regions]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"`regions` must have different names; got {name!r} twice; rename one")
        for region in self.regions:
            terms = (("pixels", region.pixel_weight), ("structure", region.structure_weight))
            for term in (f"{kind}_{region.name}" for kind, weight in terms if weight > 0):
                if term in names:
                    raise ConfigError(
                        f"`regions` must not name a region as another's term; got {term!r} beside {region.name!r}; "
                        f"rename one"
                    )
        for key, kind in (("ggd", (GGDConfig, type(None))), ("stages", (StageConfig,))):
            if not isinstance(getattr(self, key), kind):
                raise ConfigError(
                    f"`{key}` must be a {kind[0].__name__}; got {getattr(self, key)!r}; "
                    f"use Config.from_mapping for plain dicts"
                )
        check.choice("", "adversarial", self.adversarial, tuple(ADVERSARIAL_LOSSES))
        if self.balance is not None:
            check.number("", "balance", self.balance, low=1e-6)
        check.whole("", "pool_size", self.pool_size, low=0, high=check.MOST_WINDOWS)
        check.number("", "background", self.background, low=-1.0, high=1.0)
        check.choice("", "resume", self.resume, ("networks", "exact", "fresh"))
        check.whole("", "seed", self.seed, low=0)
        check.boolean("", "compile", self.compile)

    @classmethod
    def paper(cls) -> Config:
        """The paper's word: liver at two scales, then tumour at three, weights 1; ``demo_config`` has the study's.

        In the study the paper's weights gained 5.9 and 8.5 dB of tumour PSNR (CT to MR, MR to CT), those of
        ``demo_config`` 7.4 and 7.9.
        """
        return cls(
            regions=(RegionConfig("liver", scales=2), RegionConfig("tumor", scales=3)),
            ggd=GGDConfig(weight=1.0),
            stages=StageConfig(joined_by_fraction=None),
        )

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Read a configuration file.

        Raises:
            ConfigError: The file cannot be read, is not TOML, or holds a wrong key or value.
        """
        mapping = read_toml(path)
        try:
            return cls.from_mapping(mapping)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Config:
        """Build a configuration from nested plain values, as TOML or JSON give them.

        ``regions`` is a list of tables; ``ggd = false`` switches the uncertainty head off, and
        ``stages.joined_by_fraction = false`` stands for ``None``.

        Raises:
            ConfigError: A key is unknown (the nearest known one is named) or a value is wrong.
        """
        if not isinstance(mapping, Mapping):
            raise ConfigError(
                f"`config` must be a mapping of settings; got {type(mapping).__name__}; give a dict, or a TOML file"
            )
        values = dict(mapping)
        check.keys(cls, "", values)
        if "regions" in values:
            tables = values["regions"]
            if not isinstance(tables, (list, tuple)):
                raise ConfigError(
                    f"`regions` must be a list of tables; got {type(tables).__name__}; write [[regions]] in TOML"
                )
            values["regions"] = tuple(_section(RegionConfig, f"regions[{i}]", t) for i, t in enumerate(tables))
        if "ggd" in values:
            off = values["ggd"] is False or values["ggd"] is None
            values["ggd"] = None if off else _section(GGDConfig, "ggd", values["ggd"])
        if "stages" in values:
            values["stages"] = _section(StageConfig, "stages", _stages(values["stages"]))
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Nested plain values that ``from_mapping`` reads back to an equal configuration."""
        mapping = asdict(self)
        mapping["regions"] = list(mapping["regions"])
        return mapping


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a configuration file, unchecked.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    try:
        return parsed(_toml, Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"`config` must be a readable TOML file; got {str(path)!r}: {error.strerror}") from error
    except UnreadableError as error:
        raise ConfigError(f"`config` must be a TOML file; {str(path)!r} is not: {error.line}") from error


def toml_value(text: str) -> Any:
    """One value as TOML writes it; a text needs no quotes.

    Example:
        >>> toml_value("1e-4"), toml_value("[32, 64]"), toml_value("false"), toml_value("crop")
        (0.0001, [32, 64], False, 'crop')
    """
    try:
        return _toml(f"value = {text}".encode())["value"] if "\n" not in text else text
    except ValueError:  # tomllib's own error is one
        return text


def _toml(content: bytes) -> dict[str, Any]:
    return tomllib.loads(content.decode("utf-8"))


def _stages(table: Any) -> Any:
    """TOML has no ``None``."""
    is_off = isinstance(table, Mapping) and table.get("joined_by_fraction") is False
    return {**table, "joined_by_fraction": None} if is_off else table


def _section(kind: type[_Section], where: str, table: Any) -> _Section:
    if not isinstance(table, Mapping):
        raise ConfigError(f"`{where}` must be a table of settings; got {table!r}; write keys and values")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    check.keys(kind, where, values)
    if kind is RegionConfig and "name" not in values:
        raise ConfigError(f"`{where}.name` is missing; give the region a name, e.g. name = 'tumor'")
    return kind(**values)
