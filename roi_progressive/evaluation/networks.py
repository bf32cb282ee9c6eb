"""The two pretrained networks of the evaluation: LPIPS (AlexNet), and the features of FID and KID (Inception).

Weights are looked for on this machine only, never downloaded. What is not there is :class:`Unavailable`, with the
reason, so that a table can say why a column is empty.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError, ShapeError, kind_and_line
from ..saving.records import fault_of
from .similarity import check_images

if TYPE_CHECKING:
    import torch

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class WeightsFile:
    """Pretrained weights that are not bundled.

    Args:
        name: Of the file, as it is looked for.
        url: Where the package that uses it has it from.
        size_mib: Of the file, in MiB.
        scores: What it is for.
    """

    name: str
    url: str
    size_mib: float
    scores: str

    @property
    def sha256_begins(self) -> str:
        """The first digits of the checksum, which are part of the name (torch's convention ``name-<sha256>.pth``)."""
        return Path(self.name).stem.rpartition("-")[2]

    def places(self, weights_dir: str | Path | None = None) -> list[Path]:
        """Where it is looked for, in this order: in the folder, if one is given, and in torch's cache.

        Raises:
            DataError: ``weights_dir`` is not a folder.
        """
        import torch

        folders = [Path(torch.hub.get_dir()) / "checkpoints"]
        if weights_dir is not None:
            if not Path(weights_dir).is_dir():
                raise DataError(f"`weights` must be a folder with {self.name}; {str(weights_dir)!r} is not a folder")
            folders.insert(0, Path(weights_dir))
        return [folder / self.name for folder in folders]


WEIGHTS = (
    WeightsFile(
        ALEXNET_FILE,
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",  # torchvision's AlexNet_Weights.IMAGENET1K_V1
        233.1,
        "LPIPS and region LPIPS",
    ),
    WeightsFile(
        INCEPTION_FILE,
        # pytorch-fid's FID_WEIGHTS_URL
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        91.2,
        "FID and KID",
    ),
)
"""What `roi-progressive weights` shows."""
FEATURE_BLOCKS = {64: 0, 192: 1, 768: 2, 2048: 3}
HEADS = ("lin0", "lin1", "lin2", "lin3", "lin4")
MIN_LPIPS_PX = 31


@dataclass(frozen=True)
class Unavailable:
    """Why a network cannot be used here, in one line."""

    reason: str


class Lpips:
    """Learned perceptual distance of two grey images (Zhang et al. 2018, AlexNet); made by :func:`load_lpips`."""

    def __init__(self, network: Any, device: str) -> None:
        self._network = network.to(device).eval()
        self._device = device

    def __call__(self, real: npt.NDArray[Any], fake: npt.NDArray[Any]) -> float:
        """The distance between ``real`` and ``fake``.

        Args:
            real: [H, W] in 0..255, sides of at least 31 px; seen by the network as three equal channels in [-1, 1].
            fake: The same shape.

        Returns:
            0 for equal images; lower is better.

        Raises:
            ShapeError: The images are not both [H, W] of one size, or too small.
        """
        import torch

        pair = self._as_tensor(real, fake)
        with torch.no_grad():
            return float(self._network(pair[:1], pair[1:]))

    def region(self, real: npt.NDArray[Any], fake: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> float | None:
        """The distance averaged over a region, from the package's map of the whole pair (``spatial=True``).

        The map is that of the unmasked images, as for the region's SSIM: masking first would make edges that the
        network sees.

        Args:
            real: [H, W] in 0..255, sides of at least 31 px.
            fake: The same shape.
            mask: The region, bool [H, W].

        Returns:
            0 for equal images, lower is better; ``None`` if the region is empty.

        Raises:
            ShapeError: The arrays do not fit each other, or are too small.
        """
        import torch

        check_images(real, fake, mask)
        pair = self._as_tensor(real, fake)
        if not mask.any():
            return None
        self._network.spatial = True
        try:
            with torch.no_grad():
                distances = self._network(pair[:1], pair[1:])[0, 0].double().cpu().numpy()
        finally:
            self._network.spatial = False
        return float(distances[mask].mean())

    def _as_tensor(self, real: npt.NDArray[Any], fake: npt.NDArray[Any]) -> torch.Tensor:
        if real.ndim != 2 or real.shape != fake.shape or min(real.shape) < MIN_LPIPS_PX:
            raise ShapeError(
                f"`real` and `fake` must be [H, W] of one size, sides of at least {MIN_LPIPS_PX} px; "
                f"got {real.shape} and {fake.shape}"
            )
        return _channels(np.stack([real, fake]), self._device) * 2.0 - 1.0


class Inception:
    """Features for FID and KID (pytorch-fid's port of the 2015 Inception); made by :func:`load_inception`."""

    def __init__(self, network: torch.nn.Module, device: str) -> None:
        self._network = network.to(device).eval()
        self._device = device

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of a stack of grey images.

        Args:
            images: [N, H, W] in 0..255; seen by the network as three equal channels in [0, 1], resized to 299 px.

        Returns:
            float32 [N, dims].

        Raises:
            ShapeError: ``images`` is not [N, H, W].
        """
        import torch

        if images.ndim != 3:
            raise ShapeError(f"`images` must be [N, H, W]; got {images.shape}")
        with torch.no_grad():
            maps = self._network(_channels(images, self._device))[0]
            features: npt.NDArray[np.float32] = maps.mean(dim=(2, 3)).cpu().numpy()
            return features


def load_lpips(weights_dir: str | Path | None = None, device: str = "cpu") -> Lpips | Unavailable:
    """The LPIPS distance with AlexNet's weights from this machine.

    Args:
        weights_dir: Folder with ``alexnet-owt-7be5be79.pth`` (torchvision's file); then torch's hub cache is tried.
        device: Where to compute, e.g. ``cuda:0``.

    Raises:
        DataError: ``weights_dir`` is not a folder.
    """
    path = _find(ALEXNET_FILE, weights_dir)
    if path is None:
        return Unavailable(_no_weights(ALEXNET_FILE))
    package = _import("lpips")
    if isinstance(package, Unavailable):
        return package
    try:
        with _quiet_construction():
            network = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
        weights = _load(path)
        # AlexNet's layers are numbered as in torchvision, under slice1 .. slice5.
        trunk = {key: weights[f"features.{key.split('.', 1)[1]}"] for key in network.net.state_dict()}
        network.net.load_state_dict(trunk)
        heads = _load(Path(str(package.__file__)).parent / "weights" / "v0.1" / "alex.pth")
        for name, head in network.named_children():
            if name in HEADS:
                head.load_state_dict({key: heads[f"{name}.{key}"] for key in head.state_dict()})
    except Exception as error:  # whatever a damaged file or another version of the package raises
        return _broken(path, error)
    return Lpips(network, device)


def load_inception(
    weights_dir: str | Path | None = None, dims: int = 2048, device: str = "cpu"
) -> Inception | Unavailable:
    """The feature network of the FID with pytorch-fid's weights from this machine.

    Args:
        weights_dir: Folder with ``pt_inception-2015-12-05-6726825d.pth``; then torch's hub cache is tried.
        dims: Length of the features: 64, 192, 768 or 2048; only 2048 is comparable with other work.
        device: Where to compute, e.g. ``cuda:0``.

    Raises:
        ConfigError: ``dims`` is none of these.
        DataError: ``weights_dir`` is not a folder.
    """
    if dims not in FEATURE_BLOCKS:
        raise ConfigError(f"`dims` must be one of {', '.join(map(str, FEATURE_BLOCKS))}; got {dims!r}")
    path = _find(INCEPTION_FILE, weights_dir)
    if path is None:
        return Unavailable(_no_weights(INCEPTION_FILE))
    package = _import("pytorch_fid.inception")
    if isinstance(package, Unavailable):
        return package
    try:
        with _quiet_construction(), _local_weights(package, path):
            network = package.InceptionV3([FEATURE_BLOCKS[dims]])
    except Exception as error:  # whatever a damaged file or another version of the package raises
        return _broken(path, error)
    return Inception(network, device)


def _channels(images: npt.NDArray[Any], device: str) -> torch.Tensor:
    import torch

    return (torch.from_numpy(images).to(device).float() / 255.0)[:, None].expand(-1, 3, -1, -1)


def _find(name: str, weights_dir: str | Path | None) -> Path | None:
    wanted = next(file for file in WEIGHTS if file.name == name)
    return next((place for place in wanted.places(weights_dir) if place.is_file()), None)


def _no_weights(name: str) -> str:
    return f"no weights: put {name} into --weights DIR; `roi-progressive weights` says from where"


def _import(name: str) -> ModuleType | Unavailable:
    try:
        with _quiet_construction():
            return importlib.import_module(name)
    except Exception as error:  # a torchvision built for another torch raises RuntimeError, OSError, ...
        return Unavailable(f"{name.split('.')[0]} cannot be imported: {kind_and_line(error)}")


def _load(path: Path) -> dict[str, torch.Tensor]:
    from ..saving.checkpoint import read_tensors  # here, where torch is needed

    weights: dict[str, torch.Tensor] = read_tensors(path)
    return weights


@contextmanager
def _local_weights(package: ModuleType, path: Path) -> Iterator[None]:
    """Let pytorch-fid's constructor read ``path`` where it would look in its cache or download."""
    original = package.load_state_dict_from_url
    package.load_state_dict_from_url = lambda *_, **__: _load(path)  # type: ignore[attr-defined]  # its own import
    try:
        yield
    finally:
        package.load_state_dict_from_url = original  # type: ignore[attr-defined]  # its own import


@contextmanager
def _quiet_construction() -> Iterator[None]:
    """Both packages use torchvision's old keywords, and initialise weights that are then replaced."""
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def _broken(path: Path, error: Exception) -> Unavailable:
    return Unavailable(f"{path.name} cannot be loaded: {fault_of(error)}")
