"""The examples run, and the guided script is the plain one with lines added, none changed."""

from __future__ import annotations

import difflib
import runpy
import sys
from pathlib import Path

import pytest
import torch

from roi_progressive import Config
from roi_progressive.data.phantom import make_phantom

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PLAIN, GUIDED = EXAMPLES / "plain_loop.py", EXAMPLES / "plain_loop_with_regions.py"


def _added(plain_script: Path = PLAIN, guided_script: Path = GUIDED) -> list[str]:
    """Lines of code that only the guided script has, the docstring at its top aside."""
    plain, guided = (
        path.read_text(encoding="utf-8").split('"""', 2)[2].splitlines() for path in (plain_script, guided_script)
    )
    difference = [line for line in difflib.ndiff(plain, guided) if line[:2] != "  "]
    assert all(line.startswith("+ ") for line in difference), [line for line in difference if line[:1] in "-?"]
    return [line[2:].strip() for line in difference if line[2:].strip()]


def test_the_guided_script_only_adds_what_its_page_promises() -> None:
    added = _added()
    in_order = [
        "import roi_progressive",
        "def load_masks(path):",
        '"masks_A": load_masks(path_A),',
        '"masks_B": load_masks(path_B),',
        "session = roi_progressive.attach(",
        "session.start_epoch(epoch)",
        "loss_G = loss_G + session.generator_loss(",
        "session.discriminator_step()",
    ]
    found = [next((i for i, line in enumerate(added) if line.startswith(start)), -1) for start in in_order]
    assert -1 not in found and found == sorted(found)
    assert len(added) == 14, "count the lines in docs/script.md anew"


def test_the_training_script_of_a_host_adds_an_import_and_two_calls() -> None:
    assert _added(EXAMPLES / "train_plain.py", EXAMPLES / "train.py") == [
        "import roi_progressive",
        'session = roi_progressive.attach(model, dataset, "roi.toml")',
        "session.start_epoch(epoch)",
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    make_phantom(folder, n_train=2, n_val=0, n_test=0, slices_per_patient=2, size_px=64)
    return folder


def _run(script: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    arguments = ["--data", str(data), "--out", str(out), "--epochs", "3", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    assert sorted(path.name for path in out.iterdir()) == ["A2B.pth", "B2A.pth"]
    state: dict[str, torch.Tensor] = torch.load(out / "A2B.pth", weights_only=True)
    return state


def test_both_scripts_train_and_only_the_guided_one_is_guided(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _run(PLAIN, data, tmp_path / "plain", monkeypatch)
    said = capsys.readouterr().out.splitlines()
    guided = _run(GUIDED, data, tmp_path / "guided", monkeypatch)
    assert len(said) == 3 and said[0].startswith("epoch 1 of 3: G ")
    assert plain.keys() == guided.keys()
    assert all(torch.isfinite(value).all() for value in guided.values())
    assert any(not torch.equal(value, guided[key]) for key, value in plain.items())


def test_the_configuration_file_is_the_papers() -> None:
    config = Config.from_toml(EXAMPLES / "roi.toml")
    assert config.regions == Config.paper().regions
    assert config == Config.paper()


def test_the_configuration_file_explains_every_line() -> None:
    text = (EXAMPLES / "roi.toml").read_text(encoding="utf-8")
    settings = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    assert [line for line in settings if "#" not in line and not line.startswith("name")] == []
