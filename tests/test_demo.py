"""The demo from phantom to report, small: what it leaves behind, that its placebo is one, and how it fails."""

from __future__ import annotations

import json
import operator
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from roi_progressive.errors import ConfigError, DataError
from roi_progressive.evaluation.metrics import METRICS
from roi_progressive.host import HostOptions
from roi_progressive.runs import demo
from roi_progressive.runs.demo import ARMS, ShuffledMasks, run_demo
from roi_progressive.runs.demo_report import draw_curves, summary
from roi_progressive.runs.folder import history
from roi_progressive.runtime.parallel import run_parallel

pytestmark = pytest.mark.usefixtures("one_thread")
TINY: dict[str, Any] = {"epochs": 4, "n_train": 2, "n_test": 3, "slices_per_patient": 2}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[tuple[float, str]]]:
    """A tiny demo in this process: its folder, what it returned, what it reported."""
    out = tmp_path_factory.mktemp("demo") / "out"
    told: list[tuple[float, str]] = []
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(out.with_name("hub")))  # no weights of LPIPS and FID from this machine's cache
    try:
        metrics = run_demo(out, seed=1, processes=0, report=lambda share, text: told.append((share, text)), **TINY)
    finally:
        torch.hub.set_dir(before)
    return out, metrics, told


def _metrics(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return content


def test_metrics_json_has_every_arm_direction_phase_and_metric(done: tuple[Path, dict[str, Any], Any]) -> None:
    out, returned, _ = done
    metrics = _metrics(out)
    assert metrics == json.loads(json.dumps(returned))
    assert (metrics["seed"], metrics["epochs"]) == (1, 4)
    assert set(metrics["arms"]) == {"plain", "regions", "placebo", "constant_fill", "copy_source"}
    for directions in metrics["arms"].values():
        assert set(directions) == {"A2B", "B2A"}
        for phases in directions.values():
            assert set(phases) == {"ART", "PV", "NC", "mean"}
            for cell in phases.values():
                assert all(
                    isinstance(cell[metric], float) for metric in ("tpsnr", "tssim", "psnr", "ssim", "texture_ratio")
                )
                for metric in ("lpips", "region_lpips", "fid", "kid"):
                    assert cell[metric] is None and "no weights" in cell["reasons"][metric]


def test_gains_are_differences_of_the_means_over_phases(done: tuple[Path, dict[str, Any], Any]) -> None:
    metrics = _metrics(done[0])
    gained = {metric.key for metric in METRICS if metric.needs != "sigma"} - {"texture_ratio"}
    for table, arm, against in (
        ("gain", "regions", "plain"), ("placebo_gain", "placebo", "plain"),
        ("to_constant_fill", "regions", "constant_fill"),
    ):  # fmt: skip
        for direction in ("A2B", "B2A"):
            assert set(metrics[table][direction]) == gained
            for metric in ("tpsnr", "tssim", "psnr", "ssim"):
                these, those = (
                    [metrics["arms"][name][direction][phase][metric] for phase in ("ART", "PV", "NC")]
                    for name in (arm, against)
                )
                expected = sum(these) / 3 - sum(those) / 3
                assert metrics[table][direction][metric] == pytest.approx(expected, abs=1e-9)
            assert metrics[table][direction]["lpips"] is None


def test_the_metrics_are_json_that_any_reader_takes(done: tuple[Path, dict[str, Any], Any]) -> None:
    text = (done[0] / "metrics.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_pictures_and_report_are_there(done: tuple[Path, dict[str, Any], Any]) -> None:
    out = done[0]
    for name in ("figure.png", "curves.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
    report = (out / "report.md").read_text(encoding="utf-8")
    for word in ("figure.png", "curves.png", "(placebo) |", "painted flat", "regions − plain", "seed 1", "## What now"):
        assert word in report
    for word in ("torch", "Python", "epochs = ", "seed = 1", "region tumor: scales 3", "roi-progressive prepare scans"):
        assert word in report
    assert "None" not in report and "nan" not in report


def test_the_report_is_short_and_every_row_stands_in_a_file_of_its_own(done: tuple[Path, dict[str, Any], Any]) -> None:
    report, table = ((done[0] / name).read_text(encoding="utf-8") for name in ("report.md", "table.md"))
    rows = [line for line in report.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 5 + 2 + 2 * 5 and "](table.md)" in report
    every = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(every) == 2 + 5 * 2 * 4
    for arm in ("plain", "regions", "placebo", "constant_fill", "copy_source"):
        assert sum(f"| {arm} |" in line.replace("\\", "") for line in every) == 8


def test_the_summary_is_five_lines_for_a_newcomer(done: tuple[Path, dict[str, Any], Any]) -> None:
    out, metrics, _ = done
    lines = summary(metrics, out).splitlines()
    assert len(lines) == 5
    assert f"{metrics['gain']['A2B']['tpsnr']:+.1f}" in lines[0] and "CT → MR" in lines[0]
    assert f"{metrics['placebo_gain']['B2A']['tpsnr']:+.1f}" in lines[1]
    assert "figure.png" in lines[4] and "report.md" in lines[4]


def test_the_summary_says_so_where_a_score_does_not_exist(done: tuple[Path, dict[str, Any], Any]) -> None:
    metrics = _metrics(done[0])
    metrics["gain"]["A2B"]["tpsnr"] = None
    metrics["arms"]["regions"]["A2B"]["mean"]["texture_ratio"] = None
    assert summary(metrics, done[0]).count("n/a") == 2


def test_progress_goes_from_nothing_to_all_and_names_the_work(done: tuple[Path, dict[str, Any], Any]) -> None:
    told = done[2]
    shares = [share for share, _ in told]
    assert shares[0] == 0.0 and shares == sorted(shares) and 0.98 <= shares[-1] <= 1.0
    texts = " ".join(text for _, text in told)
    for word in ("phantom", "plain", "regions", "placebo", "stage 3", "evaluating"):
        assert word in texts


def test_the_arms_share_seed_data_and_budget_and_differ_in_guidance(done: tuple[Path, dict[str, Any], Any]) -> None:
    runs = {arm: json.loads((done[0] / arm / "run.json").read_text(encoding="utf-8")) for arm in ARMS}
    assert runs["plain"]["options"] == runs["regions"]["options"] == runs["placebo"]["options"]
    assert runs["plain"]["data"] == runs["regions"]["data"] == runs["placebo"]["data"]
    assert runs["regions"]["config"] == runs["placebo"]["config"]
    assert runs["plain"]["config"]["regions"] == [] and runs["plain"]["config"]["ggd"] is None
    for epoch in (0, 1):  # before anything of ours has joined
        host = {arm: history(done[0] / arm)[epoch]["losses"] for arm in ARMS}
        assert host["plain"] == host["regions"] == host["placebo"]
    last = {arm: history(done[0] / arm)[-1]["losses"] for arm in ARMS}
    assert last["plain"]["G_A"] != last["regions"]["G_A"] != last["placebo"]["G_A"]
    assert last["regions"]["D_tumor_A2B"] != last["placebo"]["D_tumor_A2B"]


def test_curves_are_drawn_from_histories_of_any_length(done: tuple[Path, dict[str, Any], Any], tmp_path: Path) -> None:
    for arm in ARMS:
        (tmp_path / arm).mkdir()
        shutil.copy(done[0] / arm / "history.jsonl", tmp_path / arm)
    lines = (tmp_path / "placebo" / "history.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "placebo" / "history.jsonl").write_text("".join(lines[:1]), encoding="utf-8")
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("seed", range(5))
def test_placebo_masks_are_a_permutation_that_leaves_none_in_its_place(
    seed: int, done: tuple[Path, dict[str, Any], Any]
) -> None:
    for folder in ("trainA", "trainB"):
        images = sorted((done[0] / "data" / folder).glob("*.png"))
        source, again = ShuffledMasks(seed), ShuffledMasks(seed)
        given = {path: source.roi_masks(path=path, regions=("liver", "tumor")) for path in images}
        for region in ("liver", "tumor"):
            masks = [given[path][region] for path in images]
            assert sorted(masks) == sorted((done[0] / "data" / f"{folder}_{region}").glob("*.png"))
            assert all(mask.name != path.name for mask, path in zip(masks, images, strict=True))
            for mask, path in zip(masks, images, strict=True):
                with Image.open(mask) as one, Image.open(path) as other:
                    assert one.size == other.size
        assert all(masks["liver"].name == masks["tumor"].name for masks in given.values())
        assert given == {path: again.roi_masks(path=path, regions=("liver", "tumor")) for path in images}


def test_placebo_orders_differ_between_seeds(done: tuple[Path, dict[str, Any], Any]) -> None:
    images = sorted((done[0] / "data" / "testA").glob("*.png"))
    orders = {
        tuple(ShuffledMasks(seed).roi_masks(path=path, regions=("tumor",))["tumor"] for path in images)
        for seed in range(5)
    }
    assert len(orders) > 1


def test_a_folder_in_use_is_refused_and_with_force_the_demo_is_made_anew(
    done: tuple[Path, dict[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="new or empty"):
        run_demo(out, processes=0, **TINY)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "notes.txt").write_text("mine", encoding="utf-8")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, seed=2, processes=0, force=True, **TINY)
    metrics = run_demo(out, seed=1, processes=0, force=True, **TINY)
    assert metrics["arms"] == done[1]["arms"]
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("wrong", [{"epochs": 3}, {"seed": -1}, {"processes": -1}, {"n_test": 2}, {"n_train": 1}])
def test_a_number_out_of_range_is_named(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}`"):
        run_demo(tmp_path / "out", **{"processes": 0, **TINY, **wrong})


def test_weights_that_are_not_there_are_found_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`weights` must be a folder"):
        run_demo(tmp_path / "out", weights_dir=tmp_path / "nowhere", **TINY)
    assert not (tmp_path / "out").exists()


class _Killed:
    """Kills the process that unpickles it, as the kernel does where memory runs out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_training_that_fails_in_its_process_says_why_in_its_own_words(tmp_path: Path) -> None:
    arm = demo._Arm("plain", tmp_path / "nowhere", tmp_path / "run", 0, 3, "cpu")
    tasks = {"plain": partial(demo._train_arm, arm)}
    with pytest.raises(DataError, match=r"`data` must be a folder .* does not exist"):
        run_parallel(tasks, 2, lambda *_: None)


def test_a_task_that_breaks_or_is_killed_ends_all_and_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*TypeError"):
        run_parallel({"broken": partial(operator.add, 1)}, 1, lambda *_: None)  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"`killed` must run to its end; .* --processes 1"):
        run_parallel({"killed": _Killed()}, 1, lambda *_: None)  # type: ignore[dict-item]


@pytest.mark.slow
def test_in_processes_of_their_own_the_arms_come_out_the_same(
    done: tuple[Path, dict[str, Any], Any], tmp_path: Path
) -> None:
    assert run_demo(tmp_path / "out", seed=1, processes=2, **TINY)["arms"] == done[1]["arms"]


def test_the_demo_trains_the_host_that_users_train() -> None:
    options = demo.demo_options(3, 9)
    assert options.epochs + options.decay_epochs == 9 and options.seed == 3
    assert isinstance(options.host_options(Path("d"), Path("r")), HostOptions)
