"""How what we add to a step grows with regions, slices and image size.

    python benchmarks/scaling.py [--rounds N] [--threads N] [--json FILE] [--plot FILE.png] [--quick]

1, 2, 4, 8 regions of 24 px on one slice of 256 px; 1, 4, 16 slices of 256 px with one region; and one slice of 128 to
512 px with a region that grows alike. The bank of both directions is measured, generator's and discriminators' pass,
without host: what the host pays for more or larger slices is its own. Linear growth is a ratio at or under the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import Spread, Times, flops_of, parsed, parser, ratios, table, times_side_by_side, write

from roi_progressive import Config, DiscriminatorBank, RegionConfig
from roi_progressive.method.regions import RegionMask
from roi_progressive.saving.names import DIRECTIONS


class BankStep:
    """The region discriminators' share of a step, on made-up images.

    Args:
        regions: How many, side by side on every slice.
        slices: In the batch.
        size_px: Side of a slice.
        region_px: Side of a square region.
        width: Channels of the discriminators' first layer.
    """

    def __init__(self, regions: int, slices: int, size_px: int, region_px: int, width: int) -> None:
        names = [f"region_{number}" for number in range(regions)]
        configs = tuple(RegionConfig(name, base_channels=width) for name in names)
        torch.manual_seed(0)
        self.bank = DiscriminatorBank(Config(regions=configs, ggd=None, pool_size=0))
        self.fake, self.real = torch.rand(2, slices, 1, size_px, size_px) * 2 - 1
        self.masks = {}
        for number, name in enumerate(names):
            top, left = (size_px // 4) * (number // 4), (size_px // 4) * (number % 4)
            mask = torch.zeros(slices, 1, size_px, size_px, dtype=torch.bool)
            mask[:, :, top : top + region_px, left : left + region_px] = True
            self.masks[name] = RegionMask.from_tensor(mask)

    def __call__(self) -> None:
        """Gradient on the images, then gradients of the parameters."""
        image = self.fake.detach().requires_grad_()
        keys = [(direction, name) for direction in DIRECTIONS for name in self.masks]
        losses = [self.bank.generator_loss(d, name, image, self.masks[name]) for d, name in keys]
        torch.autograd.grad(torch.stack([loss for loss in losses if loss is not None]).sum(), image)
        for direction, name in keys:
            masks = self.masks[name]
            loss = self.bank.discriminator_loss(direction, name, self.fake, masks, self.real, masks)
            if loss is not None:
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        self.bank.zero_grad()


def steps_of(width: int, quick: bool) -> dict[str, dict[int, BankStep]]:
    """What is compared, by the factor against the first of each group."""
    unit, px = (1, 6) if quick else (4, 24)
    size_px = 64 * unit
    groups = {
        "regions": {n: BankStep(n, 1, size_px, px, width) for n in (1, 2, 4, 8)},
        "slices": {n: BankStep(1, n, size_px, px, width) for n in (1, 4, 16)},
        "pixels": {n * n: BankStep(1, 1, 32 * unit * n, px * n, width) for n in (1, 2, 4)},
    }
    return {name: dict(list(group.items())[:2]) if quick else group for name, group in groups.items()}


def measure(group: dict[int, BankStep], rounds: int) -> dict[str, dict[str, Any]]:
    """FLOPs and seconds of every step against the first."""
    steps = {f"{factor:03d}": step for factor, step in group.items()}
    flops = {name: flops_of(step) for name, step in steps.items()}
    times: dict[str, Times] = times_side_by_side(steps, rounds)
    first = next(iter(steps))
    return {
        str(int(name)): {
            "flops_ratio": flops[name] / flops[first],
            "wall_ms": Spread.of([1000 * s for s in times[name].wall]),
            "wall_ratio": ratios(times[name].wall, times[first].wall),
            "cpu_ratio": ratios(times[name].cpu, times[first].cpu),
        }
        for name in steps
    }


def plot(figures: dict[str, dict[str, dict[str, Any]]], file: Path) -> None:
    """Cost against the factor of growth, with the linear line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    largest = max(int(factor) for group in figures.values() for factor in group)
    axes.plot([1, largest], [1, largest], color="0.6", linestyle="--", label="linear")
    for name, group in figures.items():
        factors = [int(factor) for factor in group]
        axes.plot(factors, [of["cpu_ratio"].median for of in group.values()], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("times as many")
    axes.set_ylabel("times the CPU time")
    axes.legend()
    figure.savefig(file, dpi=150)


def rows_of(figures: dict[str, dict[str, dict[str, Any]]]) -> Sequence[Sequence[str]]:
    """The lines of the table."""
    return [
        [
            name,
            f"{factor} x",
            f"{of['flops_ratio']:.2f} x",
            of["wall_ms"].text(1),
            f"{of['wall_ratio'].text()} x",
            f"{of['cpu_ratio'].text()} x",
        ]
        for name, group in figures.items()
        for factor, of in group.items()
    ]


def main() -> None:
    arguments = parser(__doc__, rounds=10)
    arguments.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth to FILE (PNG, PDF, SVG)")
    chosen = parsed(arguments)
    groups = steps_of(2 if chosen.quick else 32, chosen.quick)
    figures = {name: measure(group, chosen.rounds) for name, group in groups.items()}
    print(table(["growing", "factor", "FLOPs", "wall ms", "wall", "CPU time"], rows_of(figures)))
    if chosen.plot is not None:
        plot(figures, chosen.plot)
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
