"""A plain script, trained by one process or as one of several; started by ``test_distributed.py``, which is the other.

A step's images are the same however many processes share them: each takes its own part of one larger batch.
"""

from __future__ import annotations

import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roi_progressive import Config, GGDConfig, RegionConfig, attach

SIDE_PX = 32
N_IMAGES = 6  # in the whole batch
TUMOURS = {  # which of a step's images hold one, in turn over the steps, by domain
    "uneven": ([(0, 3, 4, 5), (0, 1, 4)], [(1, 2, 3), (0, 3, 4, 5)], [(3, 4, 5), (0, 1)], [(), (1,)], [(), ()]),
    "one_rank_never": ([(0,), (1, 2)], [(), (0,)], [(0, 1, 2), ()]),
}
RUNS = (("uneven", torch.float64, 10), ("one_rank_never", torch.float64, 9), ("uneven", torch.float32, 50))


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


def train(case: str, dtype: torch.dtype, steps: int) -> dict[str, Tensor]:
    """Train with a part of every batch, as large as those of the other processes; all weights in the end."""
    torch.manual_seed(0)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    part = slice(rank * N_IMAGES // size, (rank + 1) * N_IMAGES // size)
    generators: dict[str, Any] = {direction: make_generator().to(dtype) for direction in ("A2B", "B2A")}
    if size > 1:
        # One of them with outputs that DDP copies.
        wrap = nn.parallel.DistributedDataParallel
        generators = {d: wrap(net, find_unused_parameters=d == "A2B") for d, net in generators.items()}
    optimizer = torch.optim.Adam(chain(*(net.parameters() for net in generators.values())), lr=1e-3, betas=(0.5, 0.9))
    small: dict[str, Any] = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "stage": 1}
    regions = (RegionConfig("liver", **small), RegionConfig("tumor", **small))
    config = Config(regions=regions, ggd=GGDConfig(hidden_channels=4), pool_size=0, balance=None)
    with attach(generators, config=config, n_epochs=5) as session:
        for step in range(steps):
            if step % max(1, steps // 5) == 0:
                session.start_epoch(step // max(1, steps // 5))
            images, masks = batch_of(case, step, dtype, part)
            fake_B, fake_A = generators["A2B"](images["A"]), generators["B2A"](images["B"])
            rec_A, rec_B = generators["B2A"](fake_B), generators["A2B"](fake_A)
            forth = {"real_A": images["A"], "fake_B": fake_B, "rec_A": rec_A, "masks_A": masks["A"]}
            back = {"real_B": images["B"], "fake_A": fake_A, "rec_B": rec_B, "masks_B": masks["B"]}
            loss = (rec_A - images["A"]).abs().mean() + (rec_B - images["B"]).abs().mean()
            loss = loss + fake_B.square().mean() + session.generator_loss(**forth, **back)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            session.discriminator_step()
        weights = {f"generator.{d}.{i}": p for d, net in generators.items() for i, p in enumerate(net.parameters())}
        for place, network in enumerate(session.networks()):
            weights.update({f"ours.{place}.{name}": value for name, value in network.state_dict().items()})
    return {name: value.detach().clone() for name, value in weights.items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save([train(*run) for run in RUNS], folder / f"{os.environ['RANK']}.pth")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
