"""LPIPS and FID equal the packages they come from, and are never downloaded.

The pretrained weights are not at hand in tests: random ones are written in the same file format.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive.errors import ConfigError, DataError, ShapeError
from roi_progressive.evaluation import networks
from roi_progressive.evaluation.distances import frechet_distance, kernel_distance
from roi_progressive.evaluation.networks import (
    ALEXNET_FILE,
    INCEPTION_FILE,
    Inception,
    Lpips,
    Unavailable,
    load_inception,
    load_lpips,
)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield
    torch.hub.set_dir(before)


def grey(seed: int, n: int = 2, size_px: int = 64) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, size_px, size_px), dtype=np.uint8)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with AlexNet's file, and the lpips package's own network with the same weights."""
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = {f"features.{key.split('.', 1)[1]}": value for key, value in network.net.state_dict().items()}
    weights["classifier.6.bias"] = torch.zeros(1000)
    folder = tmp_path_factory.mktemp("alexnet")
    torch.save(weights, folder / ALEXNET_FILE)
    return folder, network


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with Inception's file, and pytorch-fid's own network (64 features) with the same weights."""
    module = pytest.importorskip("pytorch_fid.inception")
    weights: dict[str, Any] = {}

    def keep(self: torch.nn.Module, *_: Any) -> None:
        weights.update(torch.nn.Module.state_dict(self))

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr("torchvision.models.Inception3.load_state_dict", keep, raising=False)
        network = module.InceptionV3([0]).eval()
    folder = tmp_path_factory.mktemp("inception")
    torch.save(weights, folder / INCEPTION_FILE)
    return folder, network


def test_lpips_is_the_packages_distance_between_minus_one_and_one(alexnet: tuple[Path, Any]) -> None:
    folder, oracle = alexnet
    ours = load_lpips(folder)
    assert isinstance(ours, Lpips)
    real, fake = grey(0)
    real_rgb, fake_rgb = (torch.from_numpy(x / 127.5 - 1.0).float().expand(1, 3, -1, -1) for x in (real, fake))
    expected = oracle(real_rgb, fake_rgb).item()
    assert ours(real, fake) == pytest.approx(expected, abs=1e-6)
    assert expected > 1e-3
    assert ours(real, real) == 0.0


def test_lpips_needs_images_its_network_can_see(alexnet: tuple[Path, Any]) -> None:
    ours = load_lpips(alexnet[0])
    assert isinstance(ours, Lpips)
    assert ours(*grey(0, size_px=31)) > 0.0
    with pytest.raises(ShapeError, match="31 px"):
        ours(*grey(0, size_px=30))


def test_region_lpips_is_the_packages_map_averaged_over_the_region(alexnet: tuple[Path, Any]) -> None:
    folder, oracle = alexnet
    ours = load_lpips(folder)
    assert isinstance(ours, Lpips)
    real, fake = grey(0)
    mask = np.zeros(real.shape, dtype=bool)
    mask[10:30, 5:50] = True
    real_rgb, fake_rgb = (torch.from_numpy(x / 127.5 - 1.0).float().expand(1, 3, -1, -1) for x in (real, fake))
    oracle.spatial = True
    whole = oracle(real_rgb, fake_rgb)[0, 0].detach().numpy()
    oracle.spatial = False
    expected = sum(float(whole[i, j]) for i, j in np.argwhere(mask)) / mask.sum()
    before = ours(real, fake)
    assert ours.region(real, fake, mask) == pytest.approx(expected, abs=1e-6)
    assert abs(expected - whole.mean()) > 1e-5
    assert ours(real, fake) == before  # the map leaves the whole image's distance as it was
    assert ours.region(real, real, mask) == 0.0
    assert ours.region(real, fake, np.zeros_like(mask)) is None
    with pytest.raises(ShapeError, match="`mask` must be bool"):
        ours.region(real, fake, mask.astype(np.uint8))


def test_inception_features_are_those_pytorch_fid_reads_from_files(inception: tuple[Path, Any], tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    folder, oracle = inception
    ours = load_inception(folder, dims=64)
    assert isinstance(ours, Inception)
    images = grey(3, n=4, size_px=40)
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file)
    expected = fid_score.get_activations(files, oracle, batch_size=4, dims=64, num_workers=0)
    np.testing.assert_allclose(ours(images), expected, rtol=1e-5, atol=1e-6)
    assert expected.std() > 1e-4


@pytest.mark.slow
def test_fid_and_kid_are_those_of_the_whole_path_of_pytorch_fid(inception: tuple[Path, Any], tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    folder, oracle = inception
    ours = load_inception(folder, dims=64)
    assert isinstance(ours, Inception)
    images = {"real": grey(3, n=256, size_px=24), "fake": grey(4, n=256, size_px=24) // 2}
    for name, stack in images.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(stack):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    features = {
        name: np.concatenate([ours(stack[k : k + 2]) for k in range(0, 256, 2)]) for name, stack in images.items()
    }
    seen = [
        fid_score.get_activations(sorted((tmp_path / name).iterdir()), oracle, batch_size=64, dims=64, num_workers=0)
        for name in images
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statistics = [f(x) for x in seen for f in (lambda x: x.mean(0), lambda x: np.cov(x, rowvar=False))]
            expected = fid_score.calculate_frechet_distance(*statistics)
    except TypeError:
        pytest.skip("this SciPy has no sqrtm(disp=), which pytorch-fid calls")
    assert frechet_distance(features["real"], features["fake"]) == pytest.approx(expected, rel=1e-4)
    assert kernel_distance(features["real"], features["fake"]) == pytest.approx(kernel_distance(*seen), rel=1e-4)


def test_weights_in_torchs_cache_are_found(alexnet: tuple[Path, Any], tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / ALEXNET_FILE).symlink_to(alexnet[0] / ALEXNET_FILE)
    assert isinstance(load_lpips(), Lpips)


NO_WEIGHTS = "no weights: put {} into --weights DIR; `roi-progressive weights` says from where"


def test_absent_weights_are_named_and_not_downloaded(tmp_path: Path) -> None:
    assert load_lpips(tmp_path) == Unavailable(NO_WEIGHTS.format(ALEXNET_FILE))
    assert load_inception(tmp_path) == Unavailable(NO_WEIGHTS.format(INCEPTION_FILE))


def test_damaged_weights_are_reported_in_one_line(tmp_path: Path) -> None:
    for name, load in ((ALEXNET_FILE, load_lpips), (INCEPTION_FILE, load_inception)):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        found = load(tmp_path)
        assert isinstance(found, Unavailable)
        assert found.reason.startswith(f"{name} cannot be loaded: ") and "\n" not in found.reason


def test_weights_that_would_run_code_are_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"features.0.weight": Evil()}, tmp_path / ALEXNET_FILE)
    assert isinstance(load_lpips(tmp_path), Unavailable)
    assert not (tmp_path / "ran").exists()


def test_a_package_that_cannot_be_imported_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nsecond line")

    monkeypatch.setattr(networks.importlib, "import_module", broken)
    for name, load in ((ALEXNET_FILE, load_lpips), (INCEPTION_FILE, load_inception)):
        (tmp_path / name).touch()
        found = load(tmp_path)
        assert isinstance(found, Unavailable)
        assert found.reason.endswith("cannot be imported: RuntimeError: operator torchvision::nms does not exist")


def test_loading_leaves_random_streams_and_pytorch_fid_as_they_were(
    alexnet: tuple[Path, Any], inception: tuple[Path, Any]
) -> None:
    module = pytest.importorskip("pytorch_fid.inception")
    loader, before = module.load_state_dict_from_url, torch.get_rng_state()
    load_lpips(alexnet[0])
    load_inception(inception[0], dims=64)
    assert torch.equal(torch.get_rng_state(), before)
    assert module.load_state_dict_from_url is loader


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        load_lpips(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="2048; got 100"):
        load_inception(dims=100)


def test_importing_the_evaluation_loads_no_heavy_package() -> None:
    code = (
        "import sys, roi_progressive.evaluation.table, roi_progressive.evaluation.figures;"
        "heavy = {'torch', 'torchvision', 'lpips', 'pytorch_fid', 'skimage', 'matplotlib', 'PIL'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
