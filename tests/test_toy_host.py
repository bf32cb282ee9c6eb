"""What people's own tests are given: a batch of the phantom, a host that trains on it, and fixtures of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import roi_progressive
from roi_progressive import Config, ConfigError
from roi_progressive.data.phantom import phantom_patient
from roi_progressive.testing import ToyHost, check_adapter, phantom_batch, phantom_config
from roi_progressive.testing.states import same, state_of

pytestmark = pytest.mark.usefixtures("one_thread")
IMPORT_ROOT = str(Path(roi_progressive.__file__).parents[1])


# -- the batch --------------------------------------------------------------------------------------------------------


def test_a_batch_is_the_phantoms_own_slices_with_their_masks() -> None:
    batch = phantom_batch(3, size_px=40, seed=5)
    ct, mr = phantom_patient((5, 0), slices=3, size_px=40), phantom_patient((5, 1), slices=3, size_px=40)
    assert torch.equal(batch["A"], torch.from_numpy(ct.ct)[:, None])
    assert torch.equal(batch["B"], torch.from_numpy(mr.mr)[:, None])
    for domain, patient in (("A", ct), ("B", mr)):
        for region in ("liver", "tumor"):
            mask = batch[f"{domain}_{region}"]
            assert torch.equal(mask[:, 0].bool(), torch.from_numpy(patient.masks[region]))
            assert mask.flatten(1).any(dim=1).all(), "every image holds the region"


def test_a_paired_batch_shows_one_patient_twice() -> None:
    batch = phantom_batch(paired=True)
    assert torch.equal(batch["A_tumor"], batch["B_tumor"])
    assert not torch.equal(phantom_batch()["A_tumor"], phantom_batch()["B_tumor"])


def test_a_batch_leaves_the_random_streams_alone_and_differs_by_seed() -> None:
    before = torch.get_rng_state()
    assert not torch.equal(phantom_batch(seed=1)["A"], phantom_batch(seed=2)["A"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("asked", "word"), [({"n": 0}, "`n` must be"), ({"size_px": 8}, "`size_px` must be")])
def test_a_batch_that_cannot_be_made_is_one_line(asked: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=rf"\A{word}[^\n]+\Z"):
        phantom_batch(**asked)


# -- the host ---------------------------------------------------------------------------------------------------------


def trained(config: Config | None = None, **changes: Any) -> Any:
    host = ToyHost(**changes)
    if config is None:
        for batch in host.batches():
            host.step(batch)
    else:
        with roi_progressive.attach(host, None, config) as session:
            session.start_epoch(1)
            for batch in host.batches():
                host.step(batch)
            assert {"D_tumor_A2B", "D_tumor_B2A", "ggd_A2B"} <= set(session.losses())
    return state_of(host)


def test_the_toy_host_trains_alike_every_time_and_by_its_seed() -> None:
    torch.manual_seed(0)
    one = trained()
    torch.manual_seed(0)
    assert same(one, trained())
    assert not same(one["states"], trained(seed=1)["states"])


def test_the_toy_host_is_guided_and_feels_it() -> None:
    torch.manual_seed(0)
    assert not same(trained()["states"], trained(phantom_config())["states"])


def test_the_toy_host_passes_the_check_of_adapters(tmp_path: Path) -> None:
    config = phantom_config(resume="exact")
    check_adapter(lambda: (ToyHost(tmp_path), list(ToyHost().batches())), config=config)


def test_the_toy_host_logs_shows_and_saves_as_the_dialect_does(tmp_path: Path) -> None:
    host = ToyHost(tmp_path / "toy")
    with roi_progressive.attach(host, None, phantom_config()) as session:
        session.start_epoch(1)
        host.step(next(host.batches()))
        host.compute_visuals()
        assert set(host.get_current_visuals()) == {"real_A", "fake_B", "real_B", "fake_A", "sigma_A", "sigma_B"}
        assert host.get_current_losses()["roi_D_tumor_A2B"] > 0
        host.save_networks("latest")
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {*(f"latest_net_{name}.pth" for name in host.model_names), "latest_roi_progressive.pth"}


# -- the fixtures -----------------------------------------------------------------------------------------------------

SUITE = """
import roi_progressive

def test_guided(roi_toy_host, roi_phantom_batch, roi_config, tmp_path):
    with roi_progressive.attach(roi_toy_host, None, roi_config) as session:
        session.start_epoch(1)
        roi_toy_host.step(roi_phantom_batch)
        assert session.losses()["D_tumor_A2B"] > 0
        roi_toy_host.save_networks(1)
    assert len(list((tmp_path / "toy_host").iterdir())) == 5
"""
UNUSED = """
import sys

def test_nothing_heavy_was_loaded():
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert "roi_progressive.pytest_plugin" in sys.modules
    assert loaded.isdisjoint({"torch", "numpy", "scipy", "PIL"})
    ours = {name for name in sys.modules if name.startswith("roi_progressive")}
    assert ours == {"roi_progressive", "roi_progressive.pytest_plugin"}
"""


@pytest.mark.parametrize("suite", [SUITE, UNUSED], ids=["the fixtures work", "unused they load nothing"])
def test_a_project_of_ones_own_runs_with_the_plugin(suite: str, tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(suite, encoding="utf-8")
    alone = ("-p", "roi_progressive.pytest_plugin", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".")
    environment = {"PYTHONPATH": IMPORT_ROOT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", *alone, "test_theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
