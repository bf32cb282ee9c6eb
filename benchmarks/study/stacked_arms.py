"""What a stacked training may be asked for: the knobs of a run, as plain values that a line of JSON holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Judge:
    """A set of discriminators of one region, as a ``RegionConfig`` says it, with what the study tries besides.

    Args:
        region: ``tumor``; ``disc``, a disc at random in the body and off the tumour; ``rest``, the body without it;
            ``shuffled``, the tumour of another image.
        weight: Of its term in the generator's loss.
        context_px: Of the image that stays visible around the region.
        scales: 1, 1/2, 1/4, ...
        channels: Of the first layer.
        layers: Of stride 2.
        augment: What the windows go through before they are judged: ``none``, ``turn`` (mirrored and turned by right
            angles), ``affine`` (turned by any angle, scaled, moved), ``grey`` (affine, brightness and contrast too).
        r1: Weight of the gradient penalty on real windows.
        matching: Weight of the distance of the region's mean features, generated against real.
        norm: Instance norm in the discriminators.
        radius_px: Of ``disc``.
        rate: Learning rate as a multiple of the host discriminator's.
    """

    region: str = "tumor"
    weight: float = 1.0
    context_px: int = 6
    scales: int = 3
    channels: int = 8
    layers: int = 2
    augment: str = "none"
    r1: float = 0.0
    matching: float = 0.0
    norm: bool = True
    radius_px: float = 7.0
    rate: float = 1.0

    def structure(self) -> tuple[Any, ...]:
        """What must be equal for two runs' judges to lie in one stack."""
        return (
            self.region,
            self.scales,
            self.channels,
            self.layers,
            self.augment,
            self.norm,
            self.rate,
            self.r1 > 0,
            self.matching > 0,
        )


@dataclass(frozen=True)
class Pixels:
    """A network that tells of every pixel of the target domain whether it is tumour, and the term it gives.

    Args:
        kind: ``segment`` (trained on real images alone) or ``classes`` (healthy, tumour or generated; Sushko et al.
            2021).
        weight: Of its term in the generator's loss.
        channels: Of its UNet.
        inside_only: Whether only pixels within the tumour and 6 px around it count for the generator.
    """

    kind: str = "segment"
    weight: float = 1.0
    channels: int = 8
    inside_only: bool = False

    def structure(self) -> tuple[Any, ...]:
        """What must be equal for two runs' networks to lie in one stack."""
        return (self.kind, self.channels, self.inside_only)


@dataclass(frozen=True)
class Knobs:
    """One arm.

    Args:
        judges: Region discriminators; none is the plain host.
        pixels: Networks that name pixels.
        cycle: Weight of the cycle terms.
        paired_l1: Weight of the L1 term on pairs; over 0 the run sees pairs, of all patients.
        region_cycle: Weight of the mean cycle error inside the tumour.
        mind: Weight of the distance of self-similarities of source and generated image in the tumour (Heinrich et al.
            2012).
        flip: Mirror half of the images.
        from_fraction: Share of the run before region terms join.
        fade_fraction: Share of the run over which they rise.
        per_domain: Patients a domain; 0 for all.
        shared: Whether every training patient gives both images, unpaired.
    """

    judges: tuple[Judge, ...] = ()
    pixels: tuple[Pixels, ...] = ()
    cycle: float = 10.0
    paired_l1: float = 0.0
    region_cycle: float = 0.0
    mind: float = 0.0
    flip: bool = False
    from_fraction: float = 0.13
    fade_fraction: float = 0.1
    per_domain: int = 0
    shared: bool = False

    def plain_values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Stack:
    """Runs that are trained together: what must be equal for all of them.

    Args:
        name: Of the stack.
        runs: ``(arm, seed)``, with the arm's knobs in ``arms``.
        arms: Knobs by name.
        steps: Of every run.
        batch_size: Images of each domain a step.
        size_px: Side of the images.
        channels: Of the generators.
        depth: Of the generators.
        learning_rate: Adam's; falls to zero over the last third.
        test: Whether the test patients are scored, and not those to tune on.
    """

    name: str
    arms: dict[str, Knobs]
    seeds: tuple[int, ...]
    steps: int = 1560
    batch_size: int = 2
    size_px: int = 64
    channels: int = 16
    depth: int = 3
    learning_rate: float = 4e-4
    test: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every arm from every seed."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]


TUMOR = Judge()


def guided(*more: Any, **changes: Any) -> Knobs:
    """The tumour's judge with some changes, and further judges or pixel networks."""
    known = set(Judge.__dataclass_fields__)
    judge = replace(TUMOR, **{key: value for key, value in changes.items() if key in known})
    rest = {key: value for key, value in changes.items() if key not in known}
    judges = (judge, *(one for one in more if isinstance(one, Judge)))
    return Knobs(judges, tuple(one for one in more if isinstance(one, Pixels)), **rest)
