"""A script or the bundled host, trained by one process or as one of several; started by ``test_distributed.py``.

A step's images are the same however many processes share them: each takes its own part of one larger batch.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roi_progressive import Config, GGDConfig, RegionConfig, Session, attach
from roi_progressive.host import HostOptions, create_model
from roi_progressive.runtime.distributed import leave_processes

SIDE_PX = 32
N_IMAGES = 6  # in the whole batch
TUMOURS = {  # which of a step's images hold one, in turn over the steps, by domain
    "uneven": ([(0, 3, 4, 5), (0, 1, 4)], [(1, 2, 3), (0, 3, 4, 5)], [(3, 4, 5), (0, 1)], [(), (1,)], [(), ()]),
    "one_rank_never": ([(0,), (1, 2)], [(), (0,)], [(0, 1, 2), ()]),
}
TROUBLE_AT_STEP = 2


def make_generator() -> nn.Sequential:
    """No bias in front of a norm: its gradient is noise alone, which Adam would blow up."""
    inner = (nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.InstanceNorm2d(4), nn.LeakyReLU(0.2))
    return nn.Sequential(*inner, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Tanh())


def batch_of(case: str, step: int, dtype: torch.dtype, part: slice) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Images of both domains and their masks; ``part`` of the whole batch."""
    generator = torch.Generator().manual_seed(1000 + step)
    images, masks = {}, {}
    for domain, held in zip("AB", TUMOURS[case][step % len(TUMOURS[case])], strict=True):
        shape = (N_IMAGES, 1, SIDE_PX, SIDE_PX)
        images[domain] = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).to(dtype)[part]
        tumour, liver = torch.zeros(shape), torch.zeros(shape)
        liver[:, :, 2:24, 4:26] = 1
        for image in held:
            tumour[image, :, 4 : 10 + 2 * image, 6 : 14 + image] = 1  # of both window sizes
        masks[domain] = {"tumor": tumour[part], "liver": liver[part]}
    return images, masks


def rank_and_size() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_part() -> slice:
    """This process's images of a batch: as many as those of any other."""
    rank, size = rank_and_size()
    return slice(rank * N_IMAGES // size, (rank + 1) * N_IMAGES // size)


def configuration(dtype: torch.dtype) -> Config:
    """Liver and tumour from the first step on, and uncertainty; no pools, whose dice each process has its own of.

    A pixel classifier, which carries rounding far over many steps, is there in double precision alone.
    """
    small: dict[str, Any] = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "stage": 1}
    pixels: dict[str, Any] = {"pixel_weight": 0.5 if dtype == torch.float64 else 0.0, "pixel_channels": 2}
    regions = (RegionConfig("liver", **small), RegionConfig("tumor", **small, **pixels))
    return Config(regions=regions, ggd=GGDConfig(hidden_channels=4, stage=1), pool_size=0, balance=None)


def train_script(case: str, dtype: torch.dtype, steps: int, trouble: str | None = None) -> dict[str, Tensor]:
    """Train a plain script; all weights in the end, and in which steps the discriminators moved.

    Args:
        case: Which images hold tumours.
        dtype: Of weights and images.
        steps: How many.
        trouble: ``mask``: that of the last process is broken. ``overflow``: the last process's loss is too large for
            half precision, under a GradScaler.
    """
    torch.manual_seed(0)
    rank, size = rank_and_size()
    half, scaler = trouble == "overflow", _scaler(enabled=trouble == "overflow")
    generators: dict[str, Any] = {direction: make_generator().to(dtype) for direction in ("A2B", "B2A")}
    if size > 1:
        # One of them with outputs that DDP copies.
        wrap = nn.parallel.DistributedDataParallel
        generators = {d: wrap(net, find_unused_parameters=d == "A2B") for d, net in generators.items()}
    optimizer = torch.optim.Adam(chain(*(net.parameters() for net in generators.values())), lr=1e-3, betas=(0.5, 0.9))
    moved = []
    with attach(generators, config=configuration(dtype), n_epochs=5) as session:
        for step in range(steps):
            if step % max(1, steps // 5) == 0:
                session.start_epoch(step // max(1, steps // 5))
            before = _of_ours(session)
            in_trouble = step == TROUBLE_AT_STEP and rank == size - 1
            images, masks = batch_of(case, step, dtype, own_part())
            if in_trouble and trouble == "mask":
                masks["A"]["tumor"][0, 0, 0, 0] = math.nan
            with torch.autocast("cpu", dtype=torch.float16 if half else torch.bfloat16, enabled=half):
                fake_B, fake_A = generators["A2B"](images["A"]), generators["B2A"](images["B"])
                rec_A, rec_B = generators["B2A"](fake_B), generators["A2B"](fake_A)
            forth = {"real_A": images["A"], "fake_B": fake_B, "rec_A": rec_A, "masks_A": masks["A"]}
            back = {"real_B": images["B"], "fake_A": fake_A, "rec_B": rec_B, "masks_B": masks["B"]}
            loss = (rec_A - images["A"]).abs().mean() + (rec_B - images["B"]).abs().mean()
            weight = 1e30 if in_trouble and half else 1.0
            loss = loss + weight * fake_B.square().mean() + session.generator_loss(**forth, **back)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            session.discriminator_step()
            after = _of_ours(session)
            moved.append(not before or any(not torch.equal(after[name], before[name]) for name in after))
        weights = {f"generator.{d}.{i}": p for d, net in generators.items() for i, p in enumerate(net.parameters())}
        weights = {**copied(weights), **_of_ours(session, heads=True), "moved": torch.tensor(moved)}
    return weights


def _scaler(*, enabled: bool) -> Any:
    if not hasattr(torch.amp, "GradScaler"):  # before torch 2.3, which scales nothing on the CPU
        return torch.cuda.amp.GradScaler(enabled=False)
    return torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=enabled)


def _of_ours(session: Session, *, heads: bool = False) -> dict[str, Tensor]:
    networks = session.networks() if heads else session.networks()[-1:]
    states = ((place, network.state_dict()) for place, network in enumerate(networks))
    return copied({f"ours.{place}.{name}": value for place, state in states for name, value in state.items()})


def copied(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def train_bundled(steps: int) -> dict[str, Tensor]:
    """Train the bundled CycleGAN in float64; all weights in the end."""
    torch.set_default_dtype(torch.float64)
    small: dict[str, Any] = {"ngf": 4, "ndf": 4, "unet_depth": 2, "n_layers_D": 2, "pool_size": 0}
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = HostOptions(folder, checkpoints_dir=folder, n_epochs=5, seed=0, **small)
            model = create_model(options)
            model.setup(options)
        config = configuration(torch.float64)
        regions = tuple(dataclasses.replace(r, batch_key=f"{{domain}}_{r.name}") for r in config.regions)
        session = attach(model, config=dataclasses.replace(config, regions=regions))
        for step in range(steps):
            if step % max(1, steps // 5) == 0:
                session.start_epoch(1 + step // max(1, steps // 5))
            images, masks = batch_of("uneven", step, torch.float64, own_part())
            named = {f"{domain}_{region}": mask for domain, of in masks.items() for region, mask in of.items()}
            model.set_input({**images, **named, "A_paths": [], "B_paths": []})
            model.optimize_parameters()
        networks = {f"host.{name}": getattr(model, f"net{name}") for name in model.model_names}
        weights = {f"{name}.{i}": p for name, net in networks.items() for i, p in enumerate(net.parameters())}
        return {**copied(weights), **_of_ours(session, heads=True)}
    finally:
        torch.set_default_dtype(torch.float32)


AS_ONE: dict[str, Callable[[], dict[str, Tensor]]] = {
    "uneven": partial(train_script, "uneven", torch.float64, 10),
    "one rank never holds a tumour": partial(train_script, "one_rank_never", torch.float64, 9),
    "50 steps in float32": partial(train_script, "uneven", torch.float32, 50),
    "the bundled host": partial(train_bundled, 10),
}
"""Runs that end with the same weights however many processes share them."""
TROUBLED: dict[str, Callable[[], dict[str, Tensor]]] = {
    "mask": partial(train_script, "uneven", torch.float32, 5, "mask"),
    "overflow": partial(train_script, "uneven", torch.float32, 5, "overflow"),
}
"""Runs in which one process alone meets trouble."""
if not hasattr(torch.amp, "GradScaler"):
    del TROUBLED["overflow"]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save({name: run() for name, run in {**AS_ONE, **TROUBLED}.items()}, folder / f"{os.environ['RANK']}.pth")
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
