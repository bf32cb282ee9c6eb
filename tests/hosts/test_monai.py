"""MONAI's PatchDiscriminator judges regions, given through the hook ``roi_discriminator``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roi_progressive import RegionConfig, attach, hookimpl


class _Logits(nn.Module):
    """MONAI's network returns every layer's features; its logits are the last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)[-1]
        return logits


class _Monai:
    @hookimpl
    def roi_discriminator(self, region: RegionConfig, in_channels: int, smallest_px: int) -> nn.Module:
        nets = pytest.importorskip("monai.networks.nets")
        layers = max(1, smallest_px.bit_length() - 4)
        network = nets.PatchDiscriminator(
            spatial_dims=2, channels=4, in_channels=in_channels, num_layers_d=layers, norm="INSTANCE"
        )
        return _Logits(network)


def test_it_trains(open_host: Any, guided: Any) -> None:
    pytest.importorskip("monai", reason="monai is not installed")
    host = open_host("classic cycle_gan")
    with attach(host.model, host.loader, guided("classic cycle_gan"), plugins=[_Monai()]) as session:
        host.train(session, range(1, 2))
        bank = session._guidance._learner.bank
        before = [parameter.detach().clone() for parameter in bank.parameters()]
        assert sum(isinstance(module, _Logits) for module in bank.modules()) == 4, "two directions, two scales"
        host.train(session, range(2, 3))
        moved = [not torch.equal(a, b) for a, b in zip(bank.parameters(), before, strict=True)]
        assert sum(moved) > len(moved) / 2
        losses = session.losses()
        assert {"G_tumor_A2B", "D_tumor_A2B"} <= set(losses) and all(loss == loss for loss in losses.values())
