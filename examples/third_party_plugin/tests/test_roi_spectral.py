"""The four parts, each alone, and all of them found by entry point in a run of a toy host."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from roi_spectral import plugin
from roi_spectral.discriminator import SpectralDiscriminator
from roi_spectral.edges import edge_loss

import roi_progressive
from roi_progressive import RegionConfig
from roi_progressive.testing import ToyHost, check_discriminator, phantom_batch, phantom_config


def test_the_discriminator_passes_the_check():
    region = RegionConfig("tumor", scales=3, windows_px=(32, 48), base_channels=4)
    check_discriminator(plugin.roi_discriminator, region=region)


def test_no_layer_amplifies_by_more_than_one():
    torch.manual_seed(0)
    network = SpectralDiscriminator(1, 4, 2)
    for _ in range(50):  # each forward refines the estimate of the norm
        network(torch.zeros(1, 1, 16, 16))
    network.eval()
    for layer in network.model:
        if hasattr(layer, "weight"):
            assert abs(torch.linalg.matrix_norm(layer.weight.flatten(1), 2) - 1) < 1e-3


def translation(source, fake, mask):
    region = SimpleNamespace(mask=mask, is_empty=not mask.any())
    return SimpleNamespace(source=source, fake=fake, masks={"tumor": region})


def test_the_edge_loss_is_nothing_for_the_same_edges_and_for_the_inverted_image():
    batch = phantom_batch()
    source, mask = batch["A"], batch["A_tumor"] > 0
    for fake in (source, -source):
        assert abs(edge_loss(translation(source, fake, mask))) < 1e-3
    assert edge_loss(translation(source, batch["B"], mask)) > 0.1
    assert edge_loss(translation(source, source, mask & False)) is None


def test_masks_lie_in_one_folder(tmp_path):
    image = tmp_path / "trainA" / "x.png"
    assert plugin.roi_masks(image, ["tumor"]) is None
    file = tmp_path / "masks" / "trainA" / "x_tumor.png"
    file.parent.mkdir(parents=True)
    file.touch()
    assert plugin.roi_masks(image, ["tumor", "liver"]) == {"tumor": file, "liver": None}


def test_the_metric_is_the_slope_of_a_ramp():
    real, mask = np.zeros((8, 8), np.uint8), np.ones((8, 8), bool)
    ramp = np.tile(np.arange(0, 24, 3, dtype=np.uint8), (8, 1))
    assert plugin.roi_metrics(real, ramp, mask) == {"EDGE": 3.0}
    assert plugin.roi_metrics(real, ramp, ~mask) is None


def test_once_installed_it_is_found_and_trains(tmp_path: Path):
    host = ToyHost(tmp_path)
    with roi_progressive.attach(host, None, phantom_config()) as session:
        session.start_epoch(1)
        for batch in host.batches():
            host.step(batch)
        assert {"edges_A2B", "edges_B2A", "D_tumor_A2B"} <= set(session.losses())
        kinds = [type(module) for network in session.networks() for module in network.modules()]
        assert kinds.count(SpectralDiscriminator) == 2
