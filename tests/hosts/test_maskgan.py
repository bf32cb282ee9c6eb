"""MaskGAN: masks that come in the batch, generators that return four things, and a loss scaled before its backward.

Its imports of apex and of packages it does not use here are answered by stand-ins of our own.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import optim

from roi_progressive import Config, GGDConfig, MaskError, RegionConfig, attach
from roi_progressive.check.checkout import HostCheckout


class _Amp:
    """What apex does at its plainest: the loss times a constant, and the gradients divided by it before the step."""

    scale = 1.0

    @staticmethod
    def initialize(models: Any, optimizers: Any, **options: Any) -> Any:
        return models, optimizers

    @classmethod
    @contextmanager
    def scale_loss(cls, loss: torch.Tensor, optimizer: optim.Optimizer, loss_id: int = 0) -> Iterator[torch.Tensor]:
        yield loss * cls.scale
        for parameter in cls.master_params(optimizer):
            if parameter.grad is not None:
                parameter.grad /= cls.scale

    @staticmethod
    def master_params(optimizer: optim.Optimizer) -> list[torch.Tensor]:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.fixture
def slices(data: Path, tmp_path: Path) -> Path:
    """The phantom under MaskGAN's names; its mask, here the liver's, goes with the image."""
    root = tmp_path / "maskgan"
    for domain in "AB":
        for source, target in ((f"train{domain}", f"train_{domain}"), (f"train{domain}_liver", f"train_mask{domain}")):
            (root / target).mkdir(parents=True)
            for place, path in enumerate(sorted((data / source).glob("*.png"))):
                pixels = np.asarray(Image.open(path).convert("L").resize((40, 40), Image.Resampling.NEAREST))
                Image.fromarray(pixels).save(root / target / f"x_{place}.png")
    return root


@pytest.fixture
def build(hosts_folder: Path, slices: Path, tmp_path: Path, monkeypatch: Any, seed: Any) -> Iterator[Any]:
    folder = hosts_folder / "maskgan"
    if not folder.is_dir():
        pytest.skip("ROI_PROGRESSIVE_HOSTS holds no maskgan/")
    for name, content in {"apex": {"amp": _Amp}, "cv2": {}, "elasticdeform": {}, "elasticdeform.torch": {}}.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["elasticdeform"].torch = sys.modules["elasticdeform.torch"]  # type: ignore[attr-defined]
    checkout = HostCheckout(folder)
    with checkout.imported():

        def made(*more: str) -> Any:
            seed()
            arguments = ["--dataroot", str(slices), "--checkpoints_dir", str(tmp_path), "--name", "run"]
            arguments += [
                "--model",
                "mask_gan",
                "--ngf",
                "4",
                "--ndf",
                "4",
                "--num_threads",
                "0",
                "--preprocess",
                "none",
            ]
            arguments += ["--position_based_range", "9", "--niter", "2", "--niter_decay", "1", *more]
            return checkout.data_and_model(checkout.options(arguments, device="cpu"))

        yield made
    _Amp.scale = 1.0


def _config(batch_key: str | None = "{domain}_mask", **changes: Any) -> Config:
    tiny: dict[str, Any] = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "stage": 1}
    region = RegionConfig("background", batch_key=batch_key, **tiny)
    return Config(**{"regions": (region,), "ggd": GGDConfig(hidden_channels=4), "pool_size": 2, **changes})


def _gradients(model: Any) -> list[torch.Tensor]:
    nets: Sequence[Any] = (model.netG_A, model.netG_B)
    return [p.grad.clone() for net in nets for p in net.parameters() if p.grad is not None]


def test_masks_of_the_batch_guide_it_and_the_run_has_its_length(build: Any) -> None:
    loader, model = build()
    with attach(model, loader, _config()) as session:
        assert session.stages.n_epochs == 3
        session.start_epoch(1)
        for batch in loader:
            model.set_input(batch)
            model.optimize_parameters()
            assert torch.equal(session._masks["A"]["background"].mask, batch["A_mask"] > 0)
        assert {"G_background_A2B", "D_background_B2A", "ggd_A2B"} <= set(session.losses())
        head = session._guidance.heads()["A2B"]
        assert head._capture is not None and head._capture.layer is not None, "the head reads features, not the image"
        model.compute_visuals()
        assert model.get_current_visuals()["sigma_B"].shape == model.fake_B.shape


def test_its_masks_are_used_only_when_the_configuration_names_them(build: Any) -> None:
    loader, model = build()
    with pytest.raises(MaskError, match="background"):
        attach(model, loader, _config(batch_key=None))
    with attach(model, loader, _config(regions=())) as session:
        session.start_epoch(1)
        model.set_input(next(iter(loader)))
        model.optimize_parameters()
        assert not any(session._masks.values())


def test_our_gradient_is_scaled_with_the_hosts_loss(build: Any, seed: Any, differing: Any) -> None:
    """A power of two changes no bit of the result, unless the two parts are scaled differently."""
    found = {}
    for name, scale in (("alone", 1.0), ("plain", 1.0), ("scaled", 1024.0)):
        _Amp.scale = scale
        loader, model = build()
        seed(8)
        session = None if name == "alone" else attach(model, loader, _config())
        if session is not None:
            session.start_epoch(1)
        model.set_input(next(iter(loader)))
        model.optimize_parameters()
        found[name] = _gradients(model)
        if session is not None:
            session.close()
    assert differing(found["plain"], found["scaled"]) == []
    assert differing(found["plain"], found["alone"]) != []
