"""What a CycleGAN's training step costs more with roi_progressive, and with a full-size masked bank.

    python benchmarks/step_cost.py [--hosts resnet_9blocks unet_256] [--rounds N] [--threads N] [--json FILE] [--quick]

Stage 3 of ``Config.paper()`` with GGD heads, 256 x 256, batch 1, one liver of about 100 x 90 px and one tumour of 12 to
40 px. All variants train the same host on the same images, in turn, in one process. Time is told three times: whole
steps on the clock; whole steps in the processor's seconds; and, within one step, the processor's seconds inside what is
added against the rest of that step, which a busy machine disturbs least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from cyclegan_step import Added, Batch, CycleGAN, MaskedBank, Regions, phantom_batch
from measure import Spread, flops_of, parsed, parser, peak_bytes_of, ratios, table, times_side_by_side, write
from published_networks import resnet_generator, unet_generator
from torch import nn

from roi_progressive import Config, StageConfig
from roi_progressive.method.regions import RegionMask, window_side

STAGE_3 = dataclasses.replace(Config.paper(), stages=StageConfig(fade_fraction=0.0))
INERT = dataclasses.replace(STAGE_3, ggd=None)
HOSTS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet_9blocks": lambda ngf, size_px: resnet_generator(ngf=ngf),
    "unet_256": lambda ngf, size_px: unet_generator(ngf=ngf, depth=size_px.bit_length() - 1),
}


def windows_px(batch: Batch, config: Config) -> dict[str, int | None]:
    """The window the ladder chooses for each region."""
    boxes = {region.name: RegionMask.from_tensor(batch.masks_A[region.name]).boxes[0] for region in config.regions}
    return {
        region.name: None if (box := boxes[region.name]) is None else window_side(box, region)
        for region in config.regions
    }


class Variant:
    """One host with what is added to it, on one batch; counts the processor's seconds in what is added."""

    def __init__(self, host: CycleGAN, added: Added | None, batch: Batch) -> None:
        self.host, self.added, self.batch = host, added, batch
        self.inside_seconds: list[float] = []

    def step(self) -> None:
        """Train once, and note the seconds spent in what is added."""
        if self.added is not None:
            self.added.seconds = 0.0
        self.host.step(self.batch, self.added)
        self.inside_seconds.append(0.0 if self.added is None else self.added.seconds)

    def inside_ratio(self, seconds: list[float]) -> Spread:
        """The last steps, of so many seconds, against the same steps without the seconds in what is added."""
        inside = self.inside_seconds[-len(seconds) :]
        return Spread.of([whole / (whole - own) for whole, own in zip(seconds, inside, strict=True)])


def variants_of(
    build: Callable[[], nn.Module], channels: int, size_px: int, tumors_px: list[int]
) -> dict[str, Variant]:
    """The host alone, and with everything that is compared."""
    batches = {f"stage 3, tumour {px} px": phantom_batch(size_px, px) for px in tumors_px}
    batch = next(iter(batches.values()))

    def host() -> CycleGAN:
        return CycleGAN(build, channels)

    def guided(config: Config, epoch: int, batch: Batch) -> Variant:
        model = host()
        return Variant(model, Regions(model, config, epoch), batch)

    return {
        "host alone": Variant(host(), None, batch),
        "inert session": guided(INERT, 0, batch),
        **{name: guided(STAGE_3, 2, of) for name, of in batches.items()},
        "full-size masked bank": Variant(host(), MaskedBank(channels), batch),
    }


def measure(variants: dict[str, Variant], rounds: int) -> dict[str, dict[str, Any]]:
    """FLOPs, seconds and memory of every variant, and their ratios to the host alone."""
    steps = {name: variant.step for name, variant in variants.items()}
    flops = {name: flops_of(step) for name, step in steps.items()}  # the first step, which makes our networks
    peaks = {name: peak_bytes_of(step) for name, step in steps.items()}
    times = times_side_by_side(steps, rounds, warm=True)
    return {
        name: {
            "flops": flops[name],
            "flops_ratio": flops[name] / flops["host alone"],
            "peak_bytes": peaks[name],
            "peak_ratio": peaks[name] / peaks["host alone"],
            "wall_seconds": Spread.of(times[name].wall),
            "wall_ratio": ratios(times[name].wall, times["host alone"].wall),
            "cpu_ratio": ratios(times[name].cpu, times["host alone"].cpu),
            "inside_ratio": variant.inside_ratio(times[name].cpu),
            "windows_px": windows_px(variant.batch, STAGE_3) if name.startswith("stage 3") else {},
        }
        for name, variant in variants.items()
    }


def row(host: str, variant: str, figures: dict[str, Any]) -> list[str]:
    """One line of the table."""
    return [
        host,
        variant,
        f"{100 * (figures['flops_ratio'] - 1):+.2f} %",
        figures["wall_ratio"].percent(),
        figures["cpu_ratio"].percent(),
        figures["inside_ratio"].percent(),
        f"{100 * (figures['peak_ratio'] - 1):+.1f} %",
        ", ".join(f"{region} {side}" for region, side in figures["windows_px"].items()),
    ]


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS), help="default: both")
    arguments.add_argument("--tumors-px", nargs="+", type=int, default=[12, 40], help="diameters (default 12 40)")
    chosen = parsed(arguments)
    channels, size_px = (2, 64) if chosen.quick else (64, 256)
    figures = {}
    for name in chosen.hosts:
        variants = variants_of(partial(HOSTS[name], channels, size_px), channels, size_px, chosen.tumors_px)
        figures[name] = measure(variants, chosen.rounds)
    rows = [row(name, variant, of) for name, found in figures.items() for variant, of in found.items()]
    heading = ["host", "variant", "FLOPs", "wall", "CPU time", "CPU time inside it", "peak memory", "windows, px"]
    print(table(heading, rows))
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
