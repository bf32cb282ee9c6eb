"""How many operations a CycleGAN's training step starts, alone and with what is added: the price of batch 1 on a GPU.

    python benchmarks/launches.py [--hosts resnet_9blocks unet_256] [--all] [--by-operator] [--json FILE] [--quick]

Counted are the aten operations that torch dispatches, forward and backward; views, mere allocations and optimizers are
left out. Nearly each is a kernel to start, whatever it computes on. 256 x 256, one liver of about 100 x 90 px and one
tumour of 40 px. What depends on masks alone is made in NumPy, and starts nothing.

Then the time that is added where arithmetic weighs nothing: all networks of one channel, 128 x 128, one thread; medians
over rounds in one run, on the clock and of the processor, which a busy machine disturbs least. Last, what it costs to
watch one backward of a loss for where our gradient goes, apart from adding it: a graph of a few numbers, so that
nothing else is seen.

``--all`` adds uncertainty and each region alone, and batches of 4 and 16, which take most of the time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from cyclegan_step import Batch, CycleGAN, MaskedBank, Regions, phantom_batch
from measure import Spread, launches_of, parsed, parser, table, times_side_by_side, write
from step_cost import HOSTS, INERT, STAGE_3
from torch import nn

from roi_progressive import Config
from roi_progressive.training.tap import Injection, Tap

BATCHES = (4, 16)
N_BACKWARDS = 200


def _only(name: str) -> Config:
    """Stage 3 with one term: a region, or ``ggd``."""
    if name == "ggd":
        ggd = dataclasses.replace(STAGE_3.ggd, stage=1) if STAGE_3.ggd is not None else None
        return dataclasses.replace(STAGE_3, regions=(), ggd=ggd)
    regions = tuple(region for region in STAGE_3.regions if region.name == name)
    return dataclasses.replace(STAGE_3, regions=regions, ggd=None)


ALONE, BANK, SESSION, STAGE = "host alone", "+ full-size masked bank", "+ inert session", "+ stage 3"
DEFAULT = "+ default of train"
GUIDED: dict[str, tuple[Config, int]] = {SESSION: (INERT, 0), STAGE: (STAGE_3, 2), DEFAULT: (Config(), 2)}
PARTS: dict[str, tuple[Config, int]] = {
    "+ GGD alone": (_only("ggd"), 2),
    "+ liver alone": (_only("liver"), 2),
    "+ tumour alone": (_only("tumor"), 2),
}


def thin(config: Config) -> Config:
    """The same with networks of one channel."""
    regions = tuple(dataclasses.replace(region, base_channels=1, pixel_channels=1) for region in config.regions)
    ggd = config.ggd and dataclasses.replace(config.ggd, hidden_channels=1)
    return dataclasses.replace(config, regions=regions, ggd=ggd)


def step_of(name: str, build: Callable[[], nn.Module], channels: int, batch: Batch) -> Callable[[], None]:
    """A training step of the host with what ``name`` adds; it has run twice, so that everything is built."""
    host = CycleGAN(build, channels)
    added = None
    if name == BANK:
        added = MaskedBank(channels)
    elif name != ALONE:
        config, epoch = {**GUIDED, **PARTS}[name]
        added = Regions(host, thin(config) if channels == 1 else config, epoch)
    step = partial(host.step, batch, added)
    for _ in range(2):
        step()
    return step


def counted(
    build: Callable[[], nn.Module], channels: int, batches: Mapping[int, Batch], variants: Sequence[str]
) -> dict[str, Counter[str]]:
    """Operations of one step by variant, each by operator; ``, batch N`` for what is more than one slice."""
    found = {}
    for n, batch in batches.items():
        for name in variants if n == 1 else (ALONE, BANK, STAGE):
            found[name if n == 1 else f"{name}, batch {n}"] = launches_of(step_of(name, build, channels, batch))
    return found


def beyond(found: Mapping[str, Counter[str]], name: str) -> int:
    """What a variant starts more than the host alone with as many slices."""
    _, comma, batch = name.partition(",")
    return sum(found[name].values()) - sum(found[f"{ALONE}{comma}{batch}"].values())


def added_by_operator(found: Mapping[str, Counter[str]], name: str) -> dict[str, int]:
    """What a variant starts more than the host alone, the most frequent operator first."""
    more = Counter(found[name])
    more.subtract(found[ALONE])
    return {operator: count for operator, count in more.most_common() if count}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(host: str, rounds: int, size_px: int, variants: Sequence[str]) -> dict[str, tuple[Spread, Spread]]:
    """Of a step where arithmetic weighs nothing: on the clock, and of the processor."""
    batch = phantom_batch(size_px, 40 * size_px / 256)
    with _one_thread():
        steps = {name: step_of(name, partial(HOSTS[host], 1, size_px), 1, batch) for name in variants}
        times = times_side_by_side(steps, rounds)
    in_ms = {name: ([1000 * s for s in of.wall], [1000 * s for s in of.cpu]) for name, of in times.items()}
    return {name: (Spread.of(wall), Spread.of(cpu)) for name, (wall, cpu) in in_ms.items()}


def _light(times: Mapping[str, tuple[Spread, Spread]], name: str) -> dict[str, Any]:
    """The time of a light step, and what it is more than the host's alone; ``None`` where it was not measured."""
    if name not in times:
        return {"light_ms": None, "light_cpu_ms": None, "light_added_ms": None, "light_added_cpu_ms": None}
    (wall, cpu), (of_host, of_host_cpu) = times[name], times[ALONE]
    return {
        "light_ms": wall,
        "light_cpu_ms": cpu,
        "light_added_ms": wall.median - of_host.median,
        "light_added_cpu_ms": cpu.median - of_host_cpu.median,
    }


def watching(rounds: int) -> dict[str, Any]:
    """What a watched backward, of a loss that the host names or not, starts and takes more than a plain one."""

    def backward(name: str) -> Callable[[], None]:
        weight = torch.ones(8, requires_grad=True)
        elsewhere = weight * 1.0  # where our gradient would go: no backward comes by, so that nothing is added

        def step() -> None:
            loss = (weight * 2.0).sum() + (weight * 3.0).mean()
            tap = Tap((lambda: loss) if name == "named" else (lambda: None))
            if name != "plain":
                tap.lay([Injection(elsewhere, elsewhere.detach(), "an image")])
            (loss / 2).backward()
            tap.lift()

        return step

    def many(step: Callable[[], None]) -> None:
        for _ in range(N_BACKWARDS):
            step()

    steps = {name: backward(name) for name in ("plain", "named", "unnamed")}
    with _one_thread():
        times = times_side_by_side({name: partial(many, step) for name, step in steps.items()}, rounds)
    of_plain = sum(launches_of(steps["plain"]).values())
    return {
        name: {
            "added": sum(launches_of(step).values()) - of_plain,
            "added_us": Spread.of(
                [(a - b) / N_BACKWARDS * 1e6 for a, b in zip(times[name].cpu, times["plain"].cpu, strict=True)]
            ),
        }
        for name, step in steps.items()
        if name != "plain"
    }


def main() -> None:
    arguments = parser(__doc__, rounds=15)
    arguments.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS), help="default: both")
    arguments.add_argument("--all", action="store_true", help="also each term alone, and larger batches")
    arguments.add_argument("--by-operator", action="store_true", help="also which operators stage 3 adds")
    chosen = parsed(arguments)
    size_px, light_px, batches = (64, 64, (1, 2)) if chosen.quick else (256, 128, (1, *(BATCHES if chosen.all else ())))
    variants = (ALONE, BANK, *GUIDED, *(PARTS if chosen.all or chosen.quick else ()))
    tumor_px = 40 * size_px / 256
    of_batch = {n: phantom_batch(size_px, tumor_px, n=n) for n in batches}
    figures: dict[str, Any] = {}
    for host in chosen.hosts:
        # The count does not depend on the networks' width.
        found = counted(partial(HOSTS[host], 2, size_px), 2, of_batch, variants)
        times = milliseconds(host, chosen.rounds, light_px, variants)
        figures[host] = {
            name: {
                "launches": sum(operators.values()),
                "added": beyond(found, name),
                "by_operator": dict(operators.most_common()),
                **_light(times, name),
            }
            for name, operators in found.items()
        }
        if chosen.by_operator:
            figures[host]["added by stage 3"] = added_by_operator(found, STAGE)
    rows = [
        [
            host,
            name,
            str(of["launches"]),
            f"{of['added']:+d}" if of["added"] else "",
            *("" if of[ms] is None else of[ms].text(1) for ms in ("light_ms", "light_cpu_ms")),
            "" if not of["light_added_cpu_ms"] else f"{of['light_added_cpu_ms']:+.1f}",
        ]
        for host, variants in figures.items()
        for name, of in variants.items()
        if name != "added by stage 3"
    ]
    heading = ["host", "variant", "launches", "added", "light step, ms", "of the processor", "added"]
    print(table(heading, rows))
    for host in chosen.hosts if chosen.by_operator else ():
        print(f"\n{host}, added by stage 3:")
        print(table(["operator", "launches"], [[k, str(v)] for k, v in figures[host]["added by stage 3"].items()]))
    watched = watching(chosen.rounds)
    print("\nwatching one backward, whatever the host's size:")
    lines = [[f"loss_G: {name}", f"{of['added']:+d}", of["added_us"].text(0)] for name, of in watched.items()]
    print(table(["loss", "launches", "added, microseconds of the processor"], lines))
    write({**figures, "watching": watched}, chosen.json)


if __name__ == "__main__":
    main()
