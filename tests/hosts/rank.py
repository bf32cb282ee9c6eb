"""One of two processes that train the DDP host on the CPU; started by ``test_two_ranks.py``, which reads its last line.

The host's own start-up asks for NCCL and wraps networks with a device index; both are replaced here, for this process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roi_progressive import Config, GGDConfig, RegionConfig, attach
from roi_progressive.check.checkout import HostCheckout
from roi_progressive.runtime.distributed import leave_processes


class _OnCPU(nn.parallel.DistributedDataParallel):
    def __init__(self, module: nn.Module, device_ids: Any = None) -> None:
        super().__init__(module)


def _spread(tensors: list[Tensor]) -> float:
    """The largest difference between the ranks."""
    flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    everywhere = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, flat)
    return float((everywhere[0] - everywhere[1]).abs().max())


def trained(folder: str, root: str, out: str, arguments: list[str]) -> dict[str, Any]:
    torch.nn.parallel.DistributedDataParallel = _OnCPU  # type: ignore[misc]
    torch.manual_seed(0)
    tiny: dict[str, Any] = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "stage": 1}
    config = Config(regions=(RegionConfig("tumor", **tiny),), ggd=GGDConfig(hidden_channels=4), pool_size=2)
    checkout = HostCheckout(folder)
    with checkout.imported():
        opt = checkout.options(["--dataroot", root, "--checkpoints_dir", out, *arguments], device="cpu")
        loader, model = checkout.data_and_model(opt)
        before: list[Tensor] = []
        with attach(model, loader, config) as session:
            for epoch in range(1, 4):
                session.start_epoch(epoch)
                loader.set_epoch(epoch)
                for batch in loader:
                    model.set_input(batch)
                    model.optimize_parameters()
                    learner = session._guidance._learner
                    assert learner is not None
                    before = before or [parameter.detach().clone() for parameter in learner.bank.parameters()]
                model.update_learning_rate()
                model.save_networks(epoch)
            heads = [
                p for wrapper in session._guidance.heads().values() if wrapper.head for p in wrapper.head.parameters()
            ]
            bank = list(learner.bank.parameters())
            return {
                "host": _spread([p for name in model.model_names for p in getattr(model, f"net{name}").parameters()]),
                "bank": _spread(bank),
                "heads": _spread(heads),
                "bank_moved": max(float((a - b).detach().abs().max()) for a, b in zip(bank, before, strict=True)),
                "moments": len(learner.state_dict()["bank_optimizer"]["state"]),
                "own_tumours": any(name.startswith("D_tumor") for name in session.losses()),
            }


def main(folder: str, root: str, out: str, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    print(json.dumps(trained(folder, root, out, arguments)), flush=True)
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    assert "RANK" in os.environ
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
