"""Real hosts stopped after half their epochs and continued: what is ours is restored, with "exact" everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive import CheckpointError, ConfigError, attach

KINDS = ("classic cycle_gan", "DDP cycle_gan", "classic pix2pix", "DDP pix2pix", "CUT", "FastCUT")
RUN = ("--n_epochs", "4", "--n_epochs_decay", "4", "--pool_size", "4")
N_EPOCHS, STOP = 6, 3


def _save(host: Any, epoch: int | str) -> None:
    """Save as the host does; what CUT writes on a CPU, with the keys of its DataParallel wrapper, it cannot read
    itself, so its files are made those it writes on a GPU."""
    host.model.save_networks(epoch)
    if host.checkout.generation == "CUT":
        for path in Path(host.model.save_dir).glob(f"{epoch}_net_*.pth"):
            state = torch.load(path, weights_only=True)
            torch.save({key.removeprefix("module."): value for key, value in state.items()}, path)


def _run(host: Any, config: Any, epochs: range, save_at: int | None = None) -> tuple[Any, dict[str, Any], list[float]]:
    """Train the host; its state, ours, and the learning rate of every epoch."""
    rates = []
    with attach(host.model, host.loader, config) as session:
        for epoch in epochs:
            host.train(session, range(epoch, epoch + 1))
            rates.append(session._adapter.learning_rates()["generator"])
            if epoch == save_at:
                _save(host, epoch)
                _save(host, "latest")
        return host.state(), session.state_dict(), rates


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_continued_exactly_is_the_straight_run(
    kind: str, open_host: Any, guided: Any, differing: Any, copied: Any, seed: Any, tmp_path: Any
) -> None:
    arguments, config = (RUN if "cycle" in kind else RUN[:4]), guided(kind, resume="exact")
    straight = open_host(kind, *arguments, out=tmp_path / "straight")
    seed(4)
    expected, ours, rates = copied(_run(straight, config, range(1, N_EPOCHS + 1)))
    stopped = open_host(kind, *arguments, out=tmp_path / "stopped")
    seed(4)
    _run(stopped, config, range(1, STOP + 1), save_at=STOP)
    again = ("--continue_train", "--epoch_count", str(STOP + 1))
    continued = open_host(kind, *arguments, *again, out=tmp_path / "stopped")
    seed(99)  # a new process knows nothing of the old one's streams
    found, theirs, later_rates = copied(_run(continued, config, range(STOP + 1, N_EPOCHS + 1)))
    assert differing(found, expected) == []
    assert differing(theirs, ours) == []
    assert later_rates == rates[STOP:]
    assert min(rates) > 0, "a step without a rate would hide what was lost"
    if "cycle" in kind:
        assert [len(images) for images in expected["pools"]] == [4, 4], "the pools must have overflowed"


@pytest.mark.parametrize("kind", KINDS)
def test_without_exact_ours_is_restored_and_the_host_loses_its_moments_and_pools(
    kind: str, open_host: Any, guided: Any, differing: Any, copied: Any, tmp_path: Any
) -> None:
    arguments = RUN if "cycle" in kind else RUN[:4]
    stopped = open_host(kind, *arguments)
    before, ours, _ = copied(_run(stopped, guided(kind), range(1, STOP + 1), save_at=STOP))
    continued = open_host(kind, *arguments, "--continue_train", "--epoch_count", str(STOP + 1))
    with attach(continued.model, continued.loader, guided(kind)) as session:
        assert session.stages.epoch == STOP
        with pytest.raises(ConfigError, match="must not go back"):
            session.start_epoch(1)
        session.start_epoch(STOP + 1)
        restored = copied(session.state_dict())
        assert differing(restored["guidance"], ours["guidance"]) == []
        assert restored["steps"] == ours["steps"] > 0
        continued.set_up(next(iter(continued.loader)))
        assert differing(continued.state()["networks"], before["networks"]) == []
        assert all(not optimizer.state for optimizer in continued.model.optimizers)
        assert all(not images for images in continued.state()["pools"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_our_file_says_so_and_starts_afresh_only_when_told(
    kind: str, open_host: Any, guided: Any, tmp_path: Any
) -> None:
    bare = open_host(kind)
    bare.train(None, range(1, 2))
    _save(bare, "latest")
    continued = open_host(kind, "--continue_train", "--epoch_count", "2")
    with pytest.raises(CheckpointError, match=r'latest_roi_progressive\.pth.*resume = "fresh"'):
        attach(continued.model, continued.loader, guided(kind))
    with attach(continued.model, continued.loader, guided(kind, resume="fresh")) as session:
        continued.train(session, range(2, 3))
        assert session.losses()


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_either_load_in_the_other(
    kind: str, open_host: Any, guided: Any, inert: Any, differing: Any, copied: Any, seed: Any, tmp_path: Any
) -> None:
    """The unmodified host's files and those written under guidance have the same names and keys."""
    files = {}
    for name in ("bare", "guided"):
        host = open_host(kind, out=tmp_path / name)
        session = attach(host.model, host.loader, guided(kind)) if name == "guided" else None
        host.train(session, range(1, 2))
        _save(host, "latest")
        folder = Path(host.model.save_dir)
        files[name] = {path.name: torch.load(path, weights_only=True) for path in sorted(folder.glob("*_net_*.pth"))}
        ours = [path.name for path in folder.glob("*roi_progressive*")]
        assert ours == (["latest_roi_progressive.pth"] if session else [])
        saved = copied(host.state()["networks"])
        if session:
            session.close()
        # The other way round: loaded by the unmodified host, and by one that we join afresh.
        for joined in (False, True):
            again = open_host(kind, "--continue_train", "--epoch_count", "2", out=tmp_path / name)
            if joined:
                attach(again.model, again.loader, guided(kind, resume="fresh"))
            again.set_up(next(iter(again.loader)))
            assert differing(again.state()["networks"], saved) == []
    shapes = [
        {name: {key: value.shape for key, value in file.items()} for name, file in files[n].items()} for n in files
    ]
    assert shapes[0] == shapes[1]
