"""Hosts that nobody here had tried, in two lines: guided, inert bit for bit, with masks that lie right, continued."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive import Config, GGDConfig, RegionConfig, StageConfig, attach

IN_FILES = (
    *("DCLGAN dcl", "DCLGAN cycle_gan", "UNSB", "F-LSeSim", "F-LSeSim learned", "query-selected attention", "ResViT"),
)
ALL = (*IN_FILES, "pGAN", "cGAN")
BOTH_WAYS = ("DCLGAN dcl", "DCLGAN cycle_gan", "cGAN")
WITHOUT_UNCERTAINTY = ("F-LSeSim",)
"""Nothing in their forward has a truth to learn it from."""
WITHOUT_MAPS = ("UNSB", "F-LSeSim", "ResViT", "pGAN", "cGAN")
"""The generator wants more than an image, there is nothing to learn from, or visuals are no list of names."""


@pytest.fixture(scope="session")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in which the tumour is the one bright thing, unaligned and side by side."""
    root, draw = tmp_path_factory.mktemp("bright"), np.random.default_rng(2)
    for suffix in ("A", "B", ""):
        for folder in (f"train{suffix}", f"train{suffix}_tumor"):
            (root / folder).mkdir()
        for name in range(8):
            halves, masks = [], []
            for _ in range(1 if suffix else 2):
                image, mask = draw.integers(0, 90, (48, 48), dtype=np.uint8), np.zeros((48, 48), np.uint8)
                top, left = draw.integers(8, 22, 2)
                mask[top : top + 14, left : left + 16] = 255
                image[mask > 0] = 255
                halves.append(image)
                masks.append(mask)
            Image.fromarray(np.hstack(halves)).save(root / f"train{suffix}" / f"{name}.png")
            Image.fromarray(np.hstack(masks)).save(root / f"train{suffix}_tumor" / f"{name}.png")
    return root


def _config(kind: str, **changes: Any) -> Config:
    key = None if kind in IN_FILES else "{domain}_tumor"
    tiny = {"scales": 1, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "margin_px": 2, "stage": 1}
    region = RegionConfig("tumor", **{**tiny, "batch_key": key, "stage": changes.pop("stage", 1)})
    return Config(**{"regions": (region,), "ggd": GGDConfig(hidden_channels=4), "pool_size": 2, **changes})


def _with_masks(host: Any) -> Any:
    """What a user of pGAN adds to the list of samples that its loader reads."""
    if not hasattr(host.loader.dataset, "A_paths") and not hasattr(host.loader.dataset, "AB_paths"):
        for sample in host.loader.dataset:
            mask = torch.zeros(1, 32, 32)
            mask[:, 8:20, 6:18] = 1
            sample |= {"A_tumor": mask, "B_tumor": mask}
    return host


def _save(host: Any, epoch: int | str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        (host.model.save_networks if hasattr(host.model, "save_networks") else host.model.save)(epoch)


@pytest.mark.parametrize("kind", ALL)
def test_it_is_guided_in_two_lines(kind: str, open_host: Any, seed: Any) -> None:
    host = _with_masks(open_host(kind))
    seed(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with attach(host.model, host.loader, _config(kind)) as session:
            host.train(session, range(1, 3), look=True)
            directions = ("A2B", "B2A") if kind in BOTH_WAYS else ("A2B",)
            terms = {f"{term}_{d}" for term in ("G_tumor", "D_tumor", "ggd") for d in directions}
            learnt = {term for term in terms if kind not in WITHOUT_UNCERTAINTY or not term.startswith("ggd")}
            assert set(session.losses()) == learnt
            assert session.state_dict()["steps"] > 0
            shown = {name for name in getattr(host.model, "visual_names", ()) if name.startswith("sigma")}
            assert shown == (set() if kind in WITHOUT_MAPS else {f"sigma_{direction[-1]}" for direction in directions})
            _save(host, "latest")
    ours = [str(w.message) for w in said if "roi_progressive" in w.filename or "adapters" in w.filename]
    expected = ["uncertainty is left out for A2B"] if kind in WITHOUT_UNCERTAINTY else []
    assert [text.split(":")[0] for text in ours] == expected
    files = {path.name for path in Path(host.model.save_dir).glob("*.pth")}
    assert "latest_roi_progressive.pth" in files
    assert {name for name in files if "roi" not in name} == {
        f"latest_{n.replace('net', 'net_')}.pth" for n in host.networks if n not in ("netPre",)
    }


@pytest.mark.parametrize("kind", ALL)
def test_inert_it_trains_bit_for_bit_as_without_us(
    kind: str, open_host: Any, differing: Any, copied: Any, seed: Any, tmp_path: Path
) -> None:
    states = []
    for attached in (False, True):
        host = _with_masks(open_host(kind, out=tmp_path / str(attached)))
        seed(1)
        config = _config(
            kind, stage=2, ggd=GGDConfig(hidden_channels=4, stage=2), stages=StageConfig(from_epochs=(99,))
        )
        with contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            session = stack.enter_context(attach(host.model, host.loader, config)) if attached else None
            host.train(session, range(1, 4), look=True)
            _require_finite(host)
            states.append(copied(host.state()))
            assert session is None or session.state_dict()["steps"] == 0
    assert differing(*states) == []


@pytest.mark.parametrize("kind", IN_FILES)
def test_masks_lie_where_the_tumor_does(kind: str, open_host: Any, bright: Path, seed: Any) -> None:
    host = open_host(kind, root=bright)
    seed(3)
    n_masks = 0
    with attach(host.model, host.loader, _config(kind)):
        dataset = getattr(host.loader, "dataloader", host.loader).dataset
        for place in range(24):
            sample = dataset[place % len(dataset)]
            for domain in "AB":
                mask, truth = sample["roi_masks"][domain]["tumor"], sample[domain][:1] > 0.2
                if truth.sum() < 12:
                    continue
                n_masks += 1
                assert (mask & truth).sum() / (mask | truth).sum() > 0.9
        assert dataset.is_proved and not dataset.follows_by_difference
    assert n_masks > 40


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ("pGAN", "cGAN")])
def test_it_is_continued_with_what_is_ours(kind: str, open_host: Any, differing: Any, copied: Any, seed: Any) -> None:
    config = _config(kind, resume="networks")
    host = open_host(kind)
    seed(1)
    with attach(host.model, host.loader, config) as session:
        host.train(session, range(1, 3))
        _save(host, "latest")
        before, networks = copied(session.state_dict()["guidance"]), copied(host.state()["networks"])
    _unwrapped(host)
    again = ("--continue_train", "True") if kind == "query-selected attention" else ("--continue_train",)
    continued = open_host(kind, *again, "--epoch_count", "3")
    with attach(continued.model, continued.loader, config) as session:
        session.start_epoch(3)
        assert differing(copied(session.state_dict()["guidance"]), before) == []
        continued.set_up(next(iter(continued.loader)))
        assert differing(continued.state()["networks"], networks) == []
        host_steps = session.state_dict()["steps"]
        continued.train(session, range(3, 4))
        assert session.state_dict()["steps"] > host_steps


def _require_finite(host: Any) -> None:
    """Some diverge on these small images in some orders of them, with or without us; NaN would equal NaN."""
    assert all(bool(p.isfinite().all()) for network in host.networks.values() for p in network.parameters())


def _unwrapped(host: Any) -> None:
    """Files as a host of CUT's kind writes them on a GPU: those of a CPU it cannot read itself."""
    for path in Path(host.model.save_dir).glob("*_net_*.pth"):
        state = torch.load(path, weights_only=True)
        torch.save({key.removeprefix("module."): value for key, value in state.items()}, path)


# --- continued exactly, and its own test.py ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_a_run_continued_exactly_is_the_straight_run(
    kind: str, open_host: Any, differing: Any, copied: Any, seed: Any, tmp_path: Path
) -> None:
    config = _config(kind, resume="exact")

    def run(out: str, epochs: range, *arguments: str, save: bool = False, number: int = 4) -> Any:
        host = _with_masks(open_host(kind, *arguments, out=tmp_path / out))
        seed(number)
        with attach(host.model, host.loader, config) as session:
            host.train(session, epochs)
            if save:
                _save(host, "latest")
                _unwrapped(host)
            _require_finite(host)
            return copied((host.state(), session.state_dict()))

    expected, ours = run("straight", range(1, 5))
    run("stopped", range(1, 3), save=True)
    found, theirs = run("stopped", range(3, 5), *_continuing(kind), number=99)
    assert differing(found, expected) == []
    assert differing(theirs, ours) == []


def _continuing(kind: str) -> tuple[str, ...]:
    value = ("True",) if kind == "query-selected attention" else ()
    return ("--continue_train", *value, "--epoch_count", "3")


TRAINING_ONLY = (
    *("--lr", "--n_epochs", "--n_epochs_decay", "--pool_size", "--niter", "--niter_decay"),
    *("--netF_nc", "--num_patches", "--patch_size", "--patch_nums", "--load_size", "--loadSize"),
)
"""What a test.py takes none of, each with its value; images are tested at the size they were cropped to."""
MADE = {"DCLGAN dcl": ("fake_A", "fake_B"), "DCLGAN cycle_gan": ("fake_A", "fake_B"), "cGAN": ("fake_A", "fake_B")}


@pytest.mark.parametrize("kind", ALL)
def test_its_own_test_script_makes_images_with_what_was_trained(
    kind: str, open_host: Any, seed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dominate", reason="the hosts' HTML needs dominate")
    host = _with_masks(open_host(kind))
    seed(1)
    with attach(host.model, host.loader, _config(kind)) as session:
        host.train(session, range(1, 3))
        assert session.state_dict()["steps"] > 0
        _require_finite(host)
        _save(host, "latest")
    _unwrapped(host)
    words = list(host.words)
    for name in TRAINING_ONLY:
        if name in words:
            del words[words.index(name) : words.index(name) + 2]
    script = f"{kind}.py" if kind in ("pGAN", "cGAN") else "test.py"
    words += ["--phase", "train", "--results_dir", str(tmp_path / "results"), "--gpu_ids", "-1"]
    if kind in ("ResViT", "pGAN", "cGAN"):
        words += ["--display_id", "0"]
    if script != "test.py":  # they put their own name behind what is typed
        words = [word for word in words if word not in ("--model", kind, "--no_dropout")]
    loaded: list[str] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, *a, **k: (loaded.append(Path(file).name), load(file, *a, **k))[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(str(host.checkout.folder / script), run_name="__main__")
    generators = {f"latest_net_{net.removeprefix('net')}.pth" for net in host.networks if net.startswith("netG")}
    assert generators <= set(loaded)
    made = [path for path in (tmp_path / "results").rglob("*.png") if "fake" in path.name or "fake" in str(path.parent)]
    for name in MADE.get(kind, ("fake_B",)):
        assert sum(name in str(path) for path in made) >= 1, made
    assert all(np.asarray(Image.open(path)).std() > 0 for path in made)
