"""Attached with no active term, real hosts train bit for bit as without us; also after ``close()``."""

from __future__ import annotations

from typing import Any

import pytest

from roi_progressive import attach

KINDS = ("classic cycle_gan", "DDP cycle_gan", "classic pix2pix", "DDP pix2pix", "CUT", "FastCUT")


def _epochs(host: Any) -> range:
    """As many as 30 steps take."""
    steps = -(-len(host.loader) // host.model.opt.batch_size)
    return range(1, 1 + -(-30 // steps))


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_steps_are_bit_equal(
    kind: str, workers: str, open_host: Any, inert: Any, differing: Any, copied: Any, seed: Any, tmp_path: Any
) -> None:
    states = []
    for attached in (False, True):
        host = open_host(kind, "--num_threads", workers, out=tmp_path / str(attached))
        seed(1)
        session = attach(host.model, host.loader, inert(kind)) if attached else None
        host.train(session, _epochs(host), look=True)
        states.append(copied(host.state()))
        if session is not None:
            assert session.state_dict()["steps"] == 0
            session.close()
    assert differing(*states) == []


@pytest.mark.parametrize("kind", KINDS)
def test_after_close_it_goes_on_as_if_we_had_never_been_there(
    kind: str, open_host: Any, inert: Any, differing: Any, copied: Any, seed: Any, tmp_path: Any
) -> None:
    states = []
    for attached in (False, True):
        host = open_host(kind, out=tmp_path / str(attached))
        seed(1)
        for batch in host.loader:  # CUT is set up at its first batch
            host.step(batch)
        if attached:
            fixed = [host.model.loss_names, host.model.visual_names, host.model.model_names]
            own = set(vars(host.model))
            with attach(host.model, host.loader, inert(kind)) as session:
                host.train(session, range(1, 3), look=True)
            assert set(vars(host.model)) == own, "a patched method would be an attribute of its own"
            assert all(
                now is before
                for now, before in zip(
                    [host.model.loss_names, host.model.visual_names, host.model.model_names], fixed, strict=True
                )
            )
            hooks = [m for n in host.model.model_names for m in getattr(host.model, f"net{n}").modules()]
            assert not any(module._forward_hooks for module in hooks)
        else:
            host.train(None, range(1, 3), look=True)
        host.train(None, range(3, 5))
        states.append(copied(host.state()))
    assert differing(*states) == []
