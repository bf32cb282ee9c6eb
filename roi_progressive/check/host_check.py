"""``roi-progressive check``: a host's checkout, the data and the regions, looked at before a long run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..config import Config
from ..errors import ConfigError, RoiProgressiveError, kind_and_line
from ..method.stages import StageController
from ..plugins import masks as mask_files
from ..plugins.adapter import Adapter
from ..plugins.manager import Plugins
from ..training.session import attach
from .checkout import HostCheckout, importing
from .mask_coverage import Coverage, coverage_of
from .samples import all_at_once, sample_traps
from .step_cost import StepCost, measured

N_PARTS = 5
"""Of what is looked at, for the progress."""
N_BATCHES_LOOKED_AT = 50
SMALL_REGION_PX = 16


@dataclasses.dataclass
class Findings:
    """What was found.

    Args:
        host: The checkout's folder, generation, and the adapter that understands it.
        networks: The generators, a line each.
        coverage: Every region in every folder of images.
        stages: The plan, a line a stage.
        cost: What all terms together add, in per cent of the host's own step; ``None`` where no step could be taken.
        traps: What would go wrong, or be regretted, in a long run.
    """

    host: str
    networks: list[str]
    coverage: list[Coverage]
    stages: list[str]
    cost: StepCost | None
    traps: list[str]

    def __str__(self) -> str:
        cost = "not measured" if self.cost is None else _cost_line(self.cost)
        parts = {
            "host": [self.host],
            "networks": self.networks,
            "masks": [str(coverage) for coverage in self.coverage] or ["none from files"],
            "stages": self.stages,
            "cost": [cost],
            "traps": self.traps or ["none found"],
        }
        lines = [(name if place == 0 else "", line) for name, rows in parts.items() for place, line in enumerate(rows)]
        return "\n".join(f"{name:10}{line}" for name, line in lines)


def _cost_line(cost: StepCost) -> str:
    return (
        f"with all terms: parameters +{cost.n_parameters} %, memory +{cost.memory_bytes} %, "
        f"FLOPs +{cost.flops} % of the host's step"
    )


def check_host(
    folder: Path,
    data: Path,
    config: Config,
    arguments: Sequence[str] = (),
    *,
    report: Callable[[int, int, str], None] | None = None,
) -> Findings:
    """Build the host on the data, look at everything a run will read, and take one step alone and one with us.

    Args:
        folder: The host's checkout.
        data: Its ``--dataroot``.
        config: The regions.
        arguments: More of the host's own options.
        report: Called with parts done, parts in all, and what is being looked at.

    Raises:
        HostNotSupportedError: The folder holds no code we understand, or code that cannot be imported here.
        MaskError: Masks are missing or unreadable.
        ConfigError: The configuration does not fit.
    """
    begin = _announced(report)
    checkout = HostCheckout(folder)
    if not data.is_dir():
        raise ConfigError(f"`--data` must be the folder the host trains on; {str(data)!r} is no folder")
    with tempfile.TemporaryDirectory() as scratch, checkout.imported(), importing(folder):
        own = ["--dataroot", str(data), "--checkpoints_dir", scratch, "--name", "check", "--num_threads", "0"]
        with contextlib.redirect_stdout(io.StringIO()):
            begin("the host's options")
            opt = checkout.options([*arguments, *own])
            begin("its data and networks")
            loader, model = checkout.data_and_model(opt)
            found = _findings(checkout, opt, loader, model, config, begin)
            begin("")
            return found


def _announced(report: Callable[[int, int, str], None] | None) -> Callable[[str], None]:
    """What begins next is reported, and that everything before it is done."""
    count = itertools.count()

    def begin(part: str) -> None:
        done = next(count)
        if report is not None:
            report(done, N_PARTS, part)

    return begin


def _findings(
    checkout: HostCheckout, opt: Any, loader: Any, model: Any, config: Config, begin: Callable[[str], None]
) -> Findings:
    plugins = Plugins(defaults=[mask_files])
    adapter = plugins.adapter_for(model, config)
    begin("the masks")
    coverage = _coverage(adapter, loader, config, plugins)
    n_epochs = adapter.n_epochs() or 1
    plan = StageController(config, n_epochs, plugins.stages(config, n_epochs), last_epoch=adapter.last_epoch())
    plan.start_epoch(int(getattr(opt, "epoch_count", 1)))
    traps = [*_host_traps(checkout, opt), *_mask_traps(coverage, config), *_plan_traps(plan)]
    begin("whether masks follow their images")
    traps += sample_traps(adapter, loader, model, config)
    begin("a step without and with us")
    cost, of_the_step = _cost(checkout, loader, model, config)
    traps += [trap for trap in of_the_step if trap not in traps]
    return Findings(
        host=f"{checkout.folder.name}, {checkout.generation} generation, adapter {adapter.name}",
        networks=[_network_line(name, network) for name, network in adapter.generators().items()],
        coverage=coverage,
        stages=_stage_lines(plan),
        cost=cost,
        traps=traps,
    )


def _network_line(direction: str, network: nn.Module) -> str:
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    return f"{direction} {type(getattr(network, 'module', network)).__name__}, {millions:.2f} M parameters"


def _coverage(adapter: Adapter, loader: Any, config: Config, plugins: Plugins) -> list[Coverage]:
    regions = [region for region in config.regions if region.batch_key is None]
    layout = adapter.dataset_layout(loader)
    if not regions or layout is None:
        return []
    return coverage_of(mask_files.find_masks(layout.paths, regions, plugins.mask_files))


def _stage_lines(plan: StageController) -> list[str]:
    begins = [plan.first_epoch_of(stage) for stage in plan.plan]
    ends = [*(begin - 1 for begin in begins[1:]), plan.last_epoch]
    return [f"epochs {b} to {e}: {stage}" for stage, b, e in zip(plan.plan, begins, ends, strict=True) if e >= b]


def _plan_traps(plan: StageController) -> list[str]:
    return [
        f"{stage} begins in epoch {plan.first_epoch_of(stage)}, after the last one, {plan.last_epoch}"
        for stage in plan.never_reached()
    ]


def _host_traps(checkout: HostCheckout, opt: Any) -> Iterator[str]:
    if checkout.generation == "classic" and getattr(opt, "n_epochs", 0) + getattr(opt, "n_epochs_decay", 1) == 1:
        yield "the only epoch runs at learning rate 0 in this host; take two or more"
    if checkout.generation == "DDP" and getattr(opt, "norm", "") == "syncbatch":
        yield "--norm syncbatch always fails in this host under several processes; take instance"
    if getattr(opt, "pool_size", 0) and getattr(opt, "continue_train", False):
        yield 'the host forgets its optimizers and pools when it is continued; set resume = "exact"'


def _mask_traps(coverage: Sequence[Coverage], config: Config) -> Iterator[str]:
    by_name = {region.name: region for region in config.regions}
    for found in coverage:
        name, folder, region = found.region, found.folder, by_name[found.region]
        if not found.areas_px:
            yield f"{folder} holds no {name}: its discriminator would see one side only"
            continue
        if found.areas_px[0] < SMALL_REGION_PX:
            yield f"the smallest {name} of {folder} has {found.areas_px[0]} px, fewer than a logit can tell"
        if not region.mode.whole_image and found.longest_side_px + 2 * region.margin_px > region.windows_px[-1]:
            yield (
                f"a {name} of {folder} is {found.longest_side_px} px long before the host resizes it; the "
                f"largest of `windows_px`, {region.windows_px[-1]}, may not hold it"
            )


def _cost(checkout: HostCheckout, loader: Any, model: Any, config: Config) -> tuple[StepCost | None, list[str]]:
    """What all terms add to a step, in per cent, and what was said in it; the batch is one that holds a region where
    there is one."""
    everything = all_at_once(config)

    def step() -> None:
        checkout.step(model, batch)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with attach(model, loader, everything, n_epochs=1):
                batch = _batch_with_regions(loader)
        except RoiProgressiveError as error:
            return None, [f"masks do not follow: {error}"]
        try:
            checkout.set_up(model, batch)
            alone = measured(step, lambda: _networks_of(model))
        except Exception as error:  # anything at all may be wrong with a host, its data or its options
            return None, [f"the host's own step fails: {kind_and_line(error)}"]
        try:
            with attach(model, loader, everything, n_epochs=1) as session:
                session.start_epoch(1)
                guided = measured(step, lambda: [*_networks_of(model), *session.networks()])
        except RoiProgressiveError as error:
            return None, [f"a step with all terms fails: {error}"]
    ours = [str(warning.message) for warning in said if "roi_progressive" in warning.filename]
    return guided.beyond(alone).percent_of(alone), ours


def _networks_of(model: Any) -> list[nn.Module]:
    return [value for name, value in vars(model).items() if name.startswith("net") and isinstance(value, nn.Module)]


def _batch_with_regions(loader: Any) -> Any:
    for place, batch in enumerate(loader):
        masks = batch.get(mask_files.BATCH_KEY, {})
        held = [mask.any() for of_domain in masks.values() for mask in of_domain.values()]
        if all(held) or place == N_BATCHES_LOOKED_AT:
            break
    return batch
