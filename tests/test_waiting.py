"""A step reads nothing of the device: marked is every tensor made from images, networks or their gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from roi_progressive import Adapter, Config, GGDConfig, RegionConfig, Translation, hookimpl
from roi_progressive.config import ROI_MODES
from roi_progressive.loggers import CSVLogger, Logger
from roi_progressive.method.regions import RegionMask
from roi_progressive.plugins.manager import Plugins
from roi_progressive.runtime import finite, uploads
from roi_progressive.training.guidance import Guidance

pytestmark = pytest.mark.usefixtures("one_thread")

# A value that is asked for, or a shape that depends on values.
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "allclose")
# Of these no dispatch mode hears.
METHODS = ("tolist", "numpy", "cpu", "__array__")


class Device(TorchDispatchMode):
    """Marks what would lie on a device, by its memory, and fails at any read of it."""

    def __init__(self) -> None:
        super().__init__()
        self._marked: dict[int, Any] = {}  # memory is kept, lest its address be given to something unmarked

    def mark(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._marked[storage.data_ptr()] = storage

    def holds(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self._marked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        of_device = any(self.holds(given) for given in tree_leaves((args, kwargs or {})))
        name = func.name().removeprefix("aten::").partition(".")[0]
        if of_device and (name in READS or (name.startswith("index") and _by_bools(args))):
            raise AssertionError(f"{func.name()} waits for the device")
        made = func(*args, **(kwargs or {}))
        if of_device:
            self.mark(*(tensor for tensor in tree_leaves(made) if isinstance(tensor, Tensor)))
        return made


def _by_bools(args: Sequence[Any]) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)


@contextmanager
def device_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Every path that only a GPU takes is taken; allowed is what `LateNumber` fetches in the background."""
    device = Device()

    def refusing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if device.holds(tensor):
                raise AssertionError(f"{name} waits for the device")
            return original(tensor, *args, **kwargs)

        return method

    def fetched(number: finite.LateNumber) -> float:
        with _disable_current_modes():
            return float(number._value)

    def fetched_all(numbers: finite.LateNumbers) -> list[float]:
        with _disable_current_modes():
            return [float(value) for value in numbers._values.unbind()]

    with monkeypatch.context() as patched:
        for name in METHODS:
            patched.setattr(torch.Tensor, name, refusing(name, getattr(torch.Tensor, name)))
        for module in [module for name, module in sys.modules.items() if name.startswith("roi_progressive.")]:
            if hasattr(module, "is_read_late"):
                patched.setattr(module, "is_read_late", lambda flag: True)
        patched.setattr(uploads, "lies_here", lambda device: False)
        patched.setattr(finite.LateNumber, "__float__", fetched)
        patched.setattr(finite.LateNumbers, "read", fetched_all)
        yield device


class Host(Adapter):
    """Two generators and their optimizer-less steps."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.nets = {d: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 1, 1)) for d in ("A2B", "B2A")}

    def generators(self) -> Mapping[str, nn.Module]:
        return self.nets

    def translations(self, masks: Any) -> Sequence[Translation]:
        return ()

    def install(self, session: Any, patches: Any) -> None:
        pass

    def learning_rates(self) -> Mapping[str, float]:
        return {"generator": 0.01, "discriminator": 0.01}


def masks_of_three_images() -> dict[str, RegionMask]:
    """Windows of two sizes, and an image without."""
    mask = torch.zeros(3, 1, 64, 64)
    mask[0, :, 10:20, 8:18] = mask[1, :, 4:50, 8:18] = 1
    return {"tumor": RegionMask.from_tensor(mask)}


def step(
    host: Host,
    guidance: Guidance,
    device: Device,
    seed: int,
    *,
    by_adapter: bool = False,
    mixed: bool = False,
    logger: Logger | None = None,
) -> None:
    """One step of both directions, the host's own part of it included."""
    random = torch.Generator().manual_seed(seed)
    weights = {"tumor": 1.0, "ggd": 1.0}
    guidance.start()
    images = torch.rand(2, 3, 1, 64, 64, generator=random) * 2 - 1
    device.mark(images, *(p for net in host.nets.values() for p in net.parameters()))
    real = dict(zip("AB", images, strict=True))
    device.mark(*(p for network in guidance.networks() for p in (*network.parameters(), *network.buffers())))
    with device, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        made = []
        for forth, back, source, target in (("A2B", "B2A", "A", "B"), ("B2A", "A2B", "B", "A")):
            fake = host.nets[forth](real[source])
            masks = masks_of_three_images()
            made.append(
                Translation(
                    forth,
                    source=real[source],
                    fake=fake,
                    real=real[target],
                    reconstruction=host.nets[back](fake),
                    masks=masks,
                    real_masks=masks,
                )
            )
        value = guidance.contribute(made, weights, in_loss=not by_adapter)
        loss = sum(t.fake.float().mean() + t.reconstruction.float().mean() for t in made)
    with device:
        (loss * 8.0 if by_adapter else loss + value).backward()
        guidance.finish(weights)
    with device:
        if logger is not None:
            logger.roi_step_finished(step=seed + 1, losses=guidance.losses)


def config_of(**changes: Any) -> Config:
    region = {"windows_px": (24, 64), "scales": 2, "base_channels": 2, **changes.pop("region", {})}
    settings: dict[str, Any] = {"pool_size": 1, "balance": 0.5, "ggd": GGDConfig(hidden_channels=2), **changes}
    return Config(regions=(RegionConfig("tumor", **region),), **settings)


class Theirs:
    """A plugin's network of another build, and a term that waits for nothing."""

    @hookimpl
    def roi_discriminator(self, in_channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_channels, 2, 3, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3, 2, 1))

    @hookimpl
    def roi_generator_losses(self, translation: Translation) -> dict[str, Tensor]:
        inside = translation.masks["tumor"].mask
        return {"edges": torch.where(inside, translation.fake, 0.0).abs().mean()}


@pytest.mark.parametrize("mode", ROI_MODES)
@pytest.mark.parametrize("by_adapter", [False, True], ids=["script", "adapter"])
def test_no_step_waits_for_the_device(mode: str, by_adapter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    guidance = Guidance(config_of(region={"roi_mode": mode, "context_px": 1}), host, Plugins([]))
    with device_that_nobody_reads(monkeypatch) as device:
        for seed in range(3):
            step(host, guidance, device, seed, by_adapter=by_adapter)
    assert set(guidance.losses) == {f"{k}_{d}" for k in ("G_tumor", "D_tumor", "ggd") for d in ("A2B", "B2A")}
    assert all(torch.isfinite(loss) for loss in guidance.losses.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"balance": None},
        {"pool_size": 0},
        {"adversarial": "vanilla"},
        {"region": {"logits": "mean"}},
        {"region": {"logits": "plain", "scale_reduction": "sum"}},
        {"ggd": GGDConfig(target="paired", hidden_channels=2)},
    ],
    ids=str,
)
def test_nor_does_it_with_other_settings(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    guidance = Guidance(config_of(**settings), host, Plugins([]))
    with device_that_nobody_reads(monkeypatch) as device:
        for seed in range(2):
            step(host, guidance, device, seed)
    assert len(guidance.losses) == 6


@pytest.mark.parametrize("reach_px", [None, 3])
def test_nor_does_it_with_pixel_classifiers_and_the_structure_tie(
    reach_px: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"pixel_weight": 1.0, "pixel_channels": 2, "pixel_reach_px": reach_px, "structure_weight": 1.0}
    host = Host()
    guidance = Guidance(config_of(region=more), host, Plugins([]))
    with device_that_nobody_reads(monkeypatch) as device:
        for seed in range(3):
            step(host, guidance, device, seed)
    kinds = ("G_tumor", "D_tumor", "G_pixels_tumor", "D_pixels_tumor", "G_structure_tumor", "ggd")
    assert set(guidance.losses) == {f"{kind}_{d}" for kind in kinds for d in ("A2B", "B2A")}


def test_nor_does_it_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    guidance = Guidance(config_of(), host, Plugins([]))
    with device_that_nobody_reads(monkeypatch) as device:
        for seed in range(2):
            step(host, guidance, device, seed, mixed=True)
    assert len(guidance.losses) == 6


def test_nor_does_it_with_plugins_that_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    guidance = Guidance(config_of(), host, Plugins([Theirs()]))
    with device_that_nobody_reads(monkeypatch) as device:
        for seed in range(2):
            step(host, guidance, device, seed)
    assert {"edges_A2B", "D_tumor_B2A"} <= set(guidance.losses)


def test_nor_does_a_logger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It starts to fetch the losses in their own step, and reads them in the next one."""
    host = Host()
    guidance = Guidance(config_of(), host, Plugins([]))
    with CSVLogger(tmp_path, every=1) as logger, device_that_nobody_reads(monkeypatch) as device:
        for seed in range(3):
            step(host, guidance, device, seed, logger=logger)
            lines = (tmp_path / "losses.csv").read_text(encoding="utf-8").splitlines() if seed else []
            assert len(lines) == (1 + seed * len(guidance.losses) if seed else 0), "written one step late"


READERS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda image: image.max().item(),
    "bool": lambda image: bool(image.max() > 0),
    "if": lambda image: 1 if image.mean() > 0 else 0,
    "nonzero": lambda image: (image > 0).nonzero(),
    "tolist": lambda image: image.tolist(),
    "cpu": lambda image: image.cpu(),
    "numpy": lambda image: image.detach().numpy(),
    "array": lambda image: np.asarray(image.detach()),
    "a bool index": lambda image: image[image > 0],
    "masked_select": lambda image: image.masked_select(image > 0),
    "equal": lambda image: torch.equal(image, image),
}


@pytest.mark.parametrize("name", READERS)
def test_a_term_that_waits_for_the_device_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks:
        @hookimpl
        def roi_generator_losses(self, translation: Translation) -> dict[str, Tensor]:
            READERS[name](translation.fake)
            return {"asks": translation.fake.mean()}

    host = Host()
    guidance = Guidance(config_of(), host, Plugins([Asks()]))
    with device_that_nobody_reads(monkeypatch) as device, pytest.raises(AssertionError, match="waits for the device"):
        step(host, guidance, device, 0)


def test_what_goes_to_a_device_goes_in_one_copy_and_arrives_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Tensor] = []
    original = torch.Tensor.to

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copies.append(tensor)
        assert kwargs.get("non_blocking")
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(uploads, "lies_here", lambda device: False)
    monkeypatch.setattr(torch.Tensor, "to", counted)
    arrays = [np.arange(7), np.linspace(0, 1, 6).reshape(2, 3), np.float32([1.5]), np.array([True, False, True])]
    there = uploads.upload(arrays, torch.device("cpu"))
    assert len(copies) == 1
    for array, tensor in zip(arrays, there, strict=True):
        assert tensor.dtype == torch.from_numpy(array).dtype and np.array_equal(tensor.numpy(), array)
