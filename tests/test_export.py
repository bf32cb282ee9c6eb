"""Exported programs give what the run's networks give, hold no image, and come with a card that names nobody."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import gamma

import roi_progressive
from roi_progressive.cli.main import main
from roi_progressive.config import Config, GGDConfig, RegionConfig
from roi_progressive.errors import CheckpointError, ConfigError, DataError
from roi_progressive.evaluation.image_files import read_grey
from roi_progressive.method.generator import UNetGenerator
from roi_progressive.method.ggd import _log_gamma_above_one
from roi_progressive.runs.evaluate import evaluate_run, with_certainty
from roi_progressive.runs.export import export
from roi_progressive.runs.scores import write_scores
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.translate import translate
from roi_progressive.runs.volume_scores import write_volume_scores
from roi_progressive.saving.records import read_json, write_json

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`torch.jit"),
]
TUMOR = RegionConfig(
    "tumor", scales=2, stage=1, windows_px=(16, 32), base_channels=2, layers=1, margin_px=2, missing="skip"
)


@pytest.fixture(scope="module")
def runs(small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Guided runs with heads: the paper's generator, averaged, whose head is its own; and one that gets a head."""
    found = {}
    for generator, average in (("unet", 0.5), ("resnet", 0.0)):
        run = tmp_path_factory.mktemp("runs") / generator
        options = TrainOptions(
            **small_networks,
            generator=generator,
            average_decay=average,
            epochs=2,
            decay_epochs=0,
            learning_rate=0.01,
        )
        train(small_data, run, options, Config(regions=(TUMOR,), ggd=GGDConfig(weight=1.0, stage=1)))
        found[generator] = run
    return found


@pytest.fixture(scope="module")
def plain(small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "plain"
    train(small_data, run, TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    return run


def _run_program(path: Path, source: np.ndarray) -> list[np.ndarray]:
    if path.suffix == ".pt":
        with torch.no_grad():
            got = torch.jit.load(str(path))(torch.from_numpy(source))
        return [got.numpy()] if isinstance(got, torch.Tensor) else [part.numpy() for part in got]
    runtime = pytest.importorskip("onnxruntime", reason="ONNX programs are run by onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"source": source}))


def _formats() -> list[Any]:
    return ["torch", "onnx"]


def _needs(format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnx", reason="the extra `export` is not installed")
        pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.mark.parametrize("format", _formats())
@pytest.mark.parametrize("generator", ["unet", "resnet"])
def test_a_program_gives_the_images_and_maps_that_the_run_gives(
    format: str, generator: str, runs: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    """Against the files that ``translate`` wrote: images to half a grey level, sigma as the exact maps have it."""
    _needs(format)
    images = translate(runs[generator])
    done = export(runs[generator], tmp_path / "out", format=format, sigma=True)
    for direction, program in zip(("A2B", "B2A"), done.files, strict=False):
        names = sorted(path.name for path in (small_data / f"test{direction[0]}").iterdir())
        greys = np.stack([read_grey(small_data / f"test{direction[0]}" / name) for name in names])
        source = (greys[:, None] / 127.5 - 1).astype(np.float32)
        image, sigma = _run_program(program, source)  # all at once: every image is made by itself
        made = np.stack([read_grey(images[direction] / name) for name in names])
        np.testing.assert_allclose((image[:, 0] + 1) * 127.5, made, atol=0.51)
        maps = images[direction].with_name(f"{direction}_sigma")
        exact = np.stack([np.load(maps / f"{Path(name).stem}.npy") for name in names])
        assert exact.std() > 0
        np.testing.assert_allclose(sigma[:, 0] * 127.5, exact, rtol=2e-4)


@pytest.mark.parametrize("format", _formats())
def test_sizes_are_free_and_the_averages_make_the_images(
    format: str, runs: dict[str, Path], small_networks: dict[str, Any], tmp_path: Path
) -> None:
    """The saved average in a generator of our own, at odd sizes and several at once; sigma by the textbook."""
    _needs(format)
    done = export(runs["unet"], tmp_path / "out", format=format, sigma=True, directions=["B2A"])
    assert [path.name for path in done.files] == [f"B2A.{'pt' if format == 'torch' else 'onnx'}", "card.md"]
    net = UNetGenerator(1, 1, small_networks["channels"], small_networks["depth"])
    files = {name: runs["unet"] / "networks" / f"2_{name}_G_B.pth" for name in ("average", "net")}
    states = {name: torch.load(file, weights_only=True) for name, file in files.items()}
    for shape in ((1, 1, 8, 8), (3, 1, 37, 51), (1, 1, 96, 40), (2, 1, 9, 11)):
        source = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        image, sigma = _run_program(done.files[0], source)
        net.load_state_dict(states["average"])
        with torch.no_grad():
            expected, alpha, beta = (part.double().numpy() for part in net.distribution(torch.from_numpy(source)))
        np.testing.assert_allclose(image, expected, atol=2e-5)
        np.testing.assert_allclose(sigma, np.sqrt(alpha**2 * gamma(3 / beta) / gamma(1 / beta)), rtol=2e-4)
    net.load_state_dict(states["net"])
    with torch.no_grad():
        assert float((net(torch.from_numpy(source)) - torch.from_numpy(image)).abs().max()) > 1e-3


def test_the_log_gamma_of_a_program_is_scipys() -> None:
    from scipy.special import gammaln

    z = torch.linspace(1, 31, 3001, dtype=torch.float64)
    np.testing.assert_allclose(_log_gamma_above_one(z), gammaln(z.numpy()), atol=1e-11)
    np.testing.assert_allclose(_log_gamma_above_one(z.float()), gammaln(z.float().double().numpy()), atol=3e-5)


def test_a_program_needs_nothing_of_this_package_and_refuses_sizes_it_would_get_wrong(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    done = export(runs["unet"], tmp_path / "out", sigma=True)
    code = """
import sys, torch
sys.modules["roi_progressive"] = None
program = torch.jit.load(sys.argv[1])
image, sigma = program(torch.zeros(2, 1, 33, 40))
assert image.shape == sigma.shape == (2, 1, 33, 40)
for shape in ((1, 1, 7, 40), (1, 2, 32, 32), (32, 32)):
    try:
        program(torch.zeros(shape))
    except torch.jit.Error as error:
        assert "`source` must" in str(error)
    else:
        raise AssertionError(shape)
"""
    subprocess.run([sys.executable, "-c", code, str(done.files[0])], check=True, cwd=tmp_path)


def _tensors_in(path: Path) -> int:
    """How many numbers a TorchScript program holds."""
    program = torch.jit.load(str(path))
    return sum(value.numel() for value in (*program.parameters(), *program.buffers()))


def test_no_file_of_an_export_holds_a_window_of_a_pool_or_anything_but_weights(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """The session's checkpoint does hold windows; what is handed on has not one of their rows of pixels."""
    state = torch.load(runs["unet"] / "networks" / "2_roi_progressive.pth", weights_only=True)

    def images_of(value: Any) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value] if value.ndim >= 3 and min(value.shape[-2:]) >= 8 and value.is_floating_point() else []
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return [image for part in values for image in images_of(part)]

    windows = images_of(state)
    rows = {row.numpy().tobytes() for window in windows for row in window.reshape(-1, window.shape[-1])}
    rows = {row for row in rows if len(set(np.frombuffer(row, np.float32).tolist())) > 4}  # no plain background
    assert len(rows) > 20
    averages = [runs["unet"] / "networks" / f"2_average_G_{end}.pth" for end in "AB"]
    n_weights = [sum(v.numel() for v in torch.load(file, weights_only=True).values()) for file in averages]
    for format in _formats():
        if format == "onnx" and not _has_onnx():
            continue
        done = export(runs["unet"], tmp_path / format, format=format, sigma=True)
        for path in tmp_path.joinpath(format).iterdir():
            content = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    content = b"".join(archive.read(name) for name in archive.namelist())
            assert not any(row in content for row in rows), path.name
            assert str(runs["unet"].parent).encode() not in content and b"site-packages" not in content, path.name
        if format == "torch":
            assert [_tensors_in(path) for path in done.files[:2]] == n_weights


def _has_onnx() -> bool:
    try:
        import onnx  # noqa: F401
    except ImportError:
        return False
    return True


def test_random_streams_end_where_they_were(runs: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    export(runs["unet"], tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), before)


# -- the card ----------------------------------------------------------------------------------------------------------


def test_the_card_tells_counts_settings_scores_and_limits_and_names_nobody(
    runs: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    scores = with_certainty(evaluate_run(runs["unet"]))
    scores.results["model"]["A2B"]["mean"]["intervals"]["psnr"] = [1.25, 2.5]  # of one patient a phase there is none
    write_scores(runs["unet"] / "test", scores)
    assert scores.volumes is not None
    write_volume_scores(runs["unet"] / "test", scores.volumes)
    export(runs["unet"], tmp_path / "out", sigma=True)
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    manifest = read_json(small_data / "manifest.json")
    for split in ("train", "val", "test"):
        for domain, name in (("A", "CT"), ("B", "MR")):
            found = [s for s in manifest["slices"] if s["split"] == split and s["domain"] == domain]
            assert f"| {split} | {name} | {len({s['patient'] for s in found})} | {len(found)} |" in card
    cell = scores.results["model"]["A2B"]["mean"]
    assert f"| PSNR ↑ | {cell['psnr']:.2f} [1.25, 2.50] |" in card
    volume = scores.volumes.results["model"]["A2B"]["mean"]
    assert f"| MS-SSIM ↑ | {volume['volume_ms_ssim']:.4f} |" in card
    for words in ("moving average", "no medical device", "What sigma is, and what it is not", "roi-progressive 0.1.0"):
        assert words in card
    options = _options(card)
    assert options["options"]["average_decay"] == 0.5 and options["guidance"]["regions"][0]["name"] == "tumor"
    for patient in {str(s["patient"]) for s in manifest["slices"]}:
        assert patient not in card
    assert str(small_data) not in card and str(runs["unet"]) not in card


def _options(card: str) -> Any:
    blocks = [block.partition("\n```")[0] for block in card.split("```json\n")[1:]]
    return next(found for found in map(json.loads, blocks) if "options" in found)


def test_scores_of_other_networks_are_not_repeated_and_a_run_without_any_says_so(
    runs: dict[str, Path], plain: Path, tmp_path: Path
) -> None:
    export(plain, tmp_path / "plain")
    assert "was not evaluated" in (tmp_path / "plain" / "card.md").read_text(encoding="utf-8")
    write_scores(plain / "test", evaluate_run(plain))
    record = plain / "test" / "A2B" / "written.json"
    described = read_json(record)
    described["made_by"]["networks"] = {}
    write_json(record, described)
    export(plain, tmp_path / "plain", force=True)
    card = (tmp_path / "plain" / "card.md").read_text(encoding="utf-8")
    assert "is of other networks" in card and "| PSNR" not in card


def test_the_card_gives_the_window_of_a_ct(plain: Path, small_data: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_data, tmp_path / "data")
    manifest = read_json(tmp_path / "data" / "manifest.json")
    for described in manifest["slices"]:
        if described["domain"] == "A":
            described["intensity"] = {"a": 400 / 255, "b": -160.0, "unit": "HU"}
    write_json(tmp_path / "data" / "manifest.json", manifest)
    shutil.copytree(plain, tmp_path / "run")
    described = read_json(tmp_path / "run" / "run.json")
    write_json(tmp_path / "run" / "run.json", {**described, "data": str(tmp_path / "data")})
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "Of CT, -1 is -160 HU and 1 is 240 HU: `HU = (x + 1) / 2 * 400 + -160`" in card
    assert "CT is clipped to [-160, 240] HU" in card


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_folder_with_files_is_kept_unless_forced_and_then_only_ours_is_replaced(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(plain, out)
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="`out` must be"):
        export(plain, out)
    export(plain, out, directions=["A2B"], force=True)
    assert sorted(path.name for path in out.iterdir()) == ["A2B.pt", "card.md", "mine.txt", "written.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.md").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError):
        export(plain, tmp_path / "other", force=True)
    assert (tmp_path / "other" / "card.md").read_text(encoding="utf-8") == "mine"


def test_a_mistake_is_one_line_and_leaves_nothing(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="has no heads"):
        export(plain, tmp_path / "out", sigma=True)
    with pytest.raises(ConfigError, match="`format` must be one of torch, onnx; got 'onx'; did you mean 'onnx'"):
        export(plain, tmp_path / "out", format="onx")
    with pytest.raises(ConfigError, match="each direction once"):
        export(plain, tmp_path / "out", directions=["A2B", "A2B"])
    with pytest.raises(CheckpointError):
        export(plain, tmp_path / "out", epoch=7)
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "`run` must be a folder" in message
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_extra_is_named(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DataError, match=r'pip install "roi-progressive\[export\]"'):
        export(plain, tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_a_program_is_not_tried_and_this_is_told(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = export(plain, tmp_path / "out", format="onnx", directions=["A2B"])
    assert len(done.notes) == 1 and "was not tried" in done.notes[0]
    assert "| not tried |" in (tmp_path / "out" / "card.md").read_text(encoding="utf-8")


def test_a_program_that_gives_something_else_is_not_kept(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = lambda path: lambda source: [torch.zeros_like(source)]  # noqa: E731
    monkeypatch.setattr("roi_progressive.runs.export._torch_program", wrong)
    with pytest.raises(DataError, match="gives values that differ by"):
        export(plain, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_and_says_what(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(plain), str(tmp_path / "out"), "--direction", "A2B"]) == 0
    said = capsys.readouterr()
    assert said.out == f"wrote {tmp_path / 'out' / 'A2B.pt'}, {tmp_path / 'out' / 'card.md'}\n"
    assert "networks: epoch 1, the last one\n" in said.err
    assert roi_progressive.export is export
