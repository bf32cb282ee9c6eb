"""What a CycleGAN's training step costs more with roi_progressive, and with a full-size masked bank.

    python benchmarks/step_cost.py [--hosts resnet_9blocks unet_256] [--rounds N] [--threads N] [--json FILE] [--quick]
    python benchmarks/step_cost.py --device cuda [--profile FOLDER]

Stage 3 of ``Config.paper()`` with GGD heads, 256 x 256, batch 1, one liver of about 100 x 90 px and one tumour of 12 to
40 px. All variants train the same host on the same images, in turn, in one process. Time is told three times: whole
steps on the clock; whole steps in the processor's seconds; and, within one step, the processor's seconds inside what is
added against the rest of that step, which a busy machine disturbs least. On a CUDA device the clock is its own events,
after ten steps of each variant that are not measured.

``--profile`` writes a trace of one step of the host alone and of one with stage 3, and says how often each makes the
CPU wait for the device; what stage 3 adds should be nothing but numbers that were sent off earlier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cyclegan_step import Added, Batch, CycleGAN, MaskedBank, Regions, phantom_batch
from measure import (
    LATE_READS,
    Spread,
    clock_of,
    flops_of,
    kernels_among,
    kernels_of,
    name_of,
    parsed,
    parser,
    peak_bytes_of,
    profiled,
    ratios,
    table,
    times_side_by_side,
    waits_among,
    write,
)
from published_networks import resnet_generator, unet_generator
from torch import nn

from roi_progressive import Config, StageConfig
from roi_progressive.method.regions import RegionMask, window_side

WARM_UP = 10
OF_TIME = ("wall, s", "wall", "CPU time, s", "CPU time", "CPU time inside it")
HEADING = ("host", "variant", "FLOPs", "kernels", *OF_TIME, "peak memory", "windows, px")
STAGE_3 = dataclasses.replace(Config.paper(), stages=StageConfig(fade_fraction=0.0, joined_by_fraction=None))
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
    build: Callable[[], nn.Module], channels: int, size_px: int, tumors_px: list[int], device: torch.device
) -> dict[str, Variant]:
    """The host alone, and with everything that is compared."""
    batches = {f"stage 3, tumour {px} px": phantom_batch(size_px, px).to(device) for px in tumors_px}
    batch = next(iter(batches.values()))

    def host() -> CycleGAN:
        return CycleGAN(build, channels, device)

    def guided(config: Config, epoch: int, batch: Batch) -> Variant:
        model = host()
        return Variant(model, Regions(model, config, epoch), batch)

    return {
        "host alone": Variant(host(), None, batch),
        "inert session": guided(INERT, 0, batch),
        **{name: guided(STAGE_3, 2, of) for name, of in batches.items()},
        "full-size masked bank": Variant(host(), MaskedBank(channels, device), batch),
    }


def measure(variants: dict[str, Variant], rounds: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """FLOPs, seconds and memory of every variant, and their ratios to the host alone."""
    steps = {name: variant.step for name, variant in variants.items()}
    flops = {name: flops_of(step) for name, step in steps.items()}  # the first step, which makes our networks
    for step in steps.values() if device.type == "cuda" else ():
        for _ in range(WARM_UP):
            step()
    peaks = {name: peak_bytes_of(step, device) for name, step in steps.items()}
    times = times_side_by_side(steps, rounds, warm=True, clock=clock_of(device))
    kernels = {name: kernels_of(step) for name, step in steps.items()} if device.type == "cuda" else {}
    return {
        name: {
            "flops": flops[name],
            "flops_ratio": flops[name] / flops["host alone"],
            "peak_bytes": peaks[name],
            "peak_ratio": peaks[name] / peaks["host alone"],
            "wall_seconds": Spread.of(times[name].wall),
            "cpu_seconds": Spread.of(times[name].cpu),
            "kernels": kernels.get(name),
            "wall_ratio": ratios(times[name].wall, times["host alone"].wall),
            "cpu_ratio": ratios(times[name].cpu, times["host alone"].cpu),
            "inside_ratio": variant.inside_ratio(times[name].cpu),
            "windows_px": windows_px(variant.batch, STAGE_3) if name.startswith("stage 3") else {},
        }
        for name, variant in variants.items()
    }


def count_waits(variants: dict[str, Variant], folder: Path, host: str) -> dict[str, dict[str, int]]:
    """How often one step makes the CPU wait for the device: of the host alone, and with stage 3."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = next(name for name in variants if name.startswith("stage 3"))
    found = {}
    for name, file in (("host alone", "host"), (stage, "stage_3")):
        events = profiled(variants[name].step, folder / f"{host}-{file}.json")
        found[name] = {
            "waits": sum(waits_among(events).values()),
            "numbers read late": sum(waits_among(events, LATE_READS).values()),
            "kernels started": kernels_among(events),
        }
    return found


def row(host: str, variant: str, figures: dict[str, Any]) -> list[str]:
    """One line of the table."""
    return [
        host,
        variant,
        f"{100 * (figures['flops_ratio'] - 1):+.2f} %",
        "" if figures["kernels"] is None else str(figures["kernels"]),
        figures["wall_seconds"].text(4),
        figures["wall_ratio"].percent(),
        figures["cpu_seconds"].text(4),
        figures["cpu_ratio"].percent(),
        figures["inside_ratio"].percent(),
        f"{100 * (figures['peak_ratio'] - 1):+.1f} %",
        ", ".join(f"{region} {side}" for region, side in figures["windows_px"].items()),
    ]


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS), help="default: both")
    arguments.add_argument("--tumors-px", nargs="+", type=int, default=[12, 40], help="diameters (default 12 40)")
    arguments.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    arguments.add_argument("--profile", type=Path, metavar="FOLDER", help="write traces there, and count waits")
    chosen = parsed(arguments)
    if chosen.device.type not in ("cpu", "cuda"):
        arguments.error(f"--device must be cpu or cuda; got {chosen.device}")
    if chosen.device.type == "cuda" and not torch.cuda.is_available():
        arguments.error("--device cuda needs a GPU, and torch finds none here")
    channels, size_px = (2, 64) if chosen.quick else (64, 256)
    figures, waits = {}, {}
    for name in chosen.hosts:
        build = partial(HOSTS[name], channels, size_px)
        variants = variants_of(build, channels, size_px, chosen.tumors_px, chosen.device)
        figures[name] = measure(variants, chosen.rounds, chosen.device)
        print(table(HEADING, [row(name, variant, of) for variant, of in figures[name].items()]), flush=True)
        if chosen.profile is not None:
            waits[name] = count_waits(variants, chosen.profile, name)
    print(f"device: {name_of(chosen.device)}; torch {torch.__version__}")
    if waits:
        kinds = list(next(iter(next(iter(waits.values())).values())))
        lines = [[host, name, *map(str, of.values())] for host, found in waits.items() for name, of in found.items()]
        print(table(["host", "variant", *kinds], lines))
    write({**figures, **({"waits": waits} if waits else {})}, chosen.json, chosen.device)


if __name__ == "__main__":
    main()
