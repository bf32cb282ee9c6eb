"""``check_adapter`` passes a right adapter, and names what a wrong one does."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from roi_progressive import Config, ConfigError, HostNotSupportedError, PluginError, hookimpl
from roi_progressive.adapters.junyanz import CycleGANAdapter
from roi_progressive.testing import check_adapter


class _Wrong(CycleGANAdapter):
    """A CycleGAN's adapter, and faults to mix in."""


class _Silent(_Wrong):
    def install(self, session: Any, patches: Any) -> None:
        pass


class _Leaves(_Wrong):
    def install(self, session: Any, patches: Any) -> None:
        super().install(session, patches)
        self.model.left_behind = True


class _Replaces(_Wrong):
    def install(self, session: Any, patches: Any) -> None:
        super().install(session, patches)
        self.model.model_names = list(self.model.model_names)


class _MarksTheLoader(_Wrong):
    def dataset_layout(self, dataset: Any) -> Any:
        dataset.seen = True
        return super().dataset_layout(dataset)


class _Hooks(_Wrong):
    def install(self, session: Any, patches: Any) -> None:
        super().install(session, patches)
        self.model.netG_A.register_forward_hook(lambda *_: None)


class _Endless(_Wrong):
    def n_epochs(self) -> int | None:
        return 0


class _Idle(_Wrong):
    def is_training(self) -> bool:
        return False


class _TextPath(_Wrong):
    def resume_file(self) -> Any:
        return "latest_roi_progressive.pth"


class _Draws(_Wrong):
    def install(self, session: Any, patches: Any) -> None:
        super().install(session, patches)
        torch.rand(1)


class _ForgetsMasks(_Wrong):
    def translations(self, masks: Any) -> Any:
        empty = {name: mask.from_tensor(mask.mask & False) for name, mask in masks["A"].items()}
        return super().translations({"A": empty, "B": empty})


class _CopiesFakes(_Wrong):
    def translations(self, masks: Any) -> Any:
        return [dataclasses.replace(t, fake=t.fake * 1.0) for t in super().translations(masks)]


class _TooBright(_Wrong):
    def translations(self, masks: Any) -> Any:
        return [dataclasses.replace(t, real=t.real * 255) for t in super().translations(masks)]


class _NoRates(_Wrong):
    def learning_rates(self) -> dict[str, float]:
        return {"G": 0.1}


class _WrongNames(_Wrong):
    def generators(self) -> Any:
        return {"AtoB": self.model.netG_A}


class _LossOfPixels(_Wrong):
    def generator_loss(self) -> Any:
        return torch.zeros(2)


class _Pickles(_Wrong):
    def host_state(self) -> dict[str, Any]:
        return {"opt": random.Random()}


class _Forgets(_Wrong):
    def load_host_state(self, state: Any) -> None:
        self.model.optimizer_G.state.clear()


FAULTS: dict[type[_Wrong], str] = {
    _Silent: "no translation came",
    _Leaves: "left after close: left_behind",
    _Replaces: "left after close: model_names",
    _MarksTheLoader: "left after close: seen of the loader",
    _Hooks: "left after close: hooks of its networks",
    _Endless: "`n_epochs` must be a whole number of at least 1, or None; got 0",
    _Idle: "`is_training` must say True for a host that trains; got False",
    _TextPath: "`resume_file` must be a pathlib.Path, or None for a fresh run; got 'latest",
    _Draws: "must not change training where no term is active",
    _ForgetsMasks: "held no region",
    _CopiesFakes: "our gradient got lost",
    _TooBright: r"`real` of the translation A2B must lie in \[-1, 1\]",
    _NoRates: "`learning_rates` must give",
    _WrongNames: "`generators` must name A2B, B2A or both; got .'AtoB'",
    _LossOfPixels: r"`generator_loss` must be a scalar tensor or None; got tensor\(\[0., 0.\]\)",
    _Pickles: "`host_state` must give tensors and plain values",
    _Forgets: "`load_host_state` must restore",
}


@pytest.fixture
def make_host(build_host: Any) -> Callable[[], Any]:
    def make() -> Any:
        random.seed(0)
        return build_host()

    return make


def _plugin(kind: type[CycleGANAdapter]) -> Any:
    class Plugin:
        @hookimpl
        def roi_adapter(self, host: Any, config: Config) -> Any:
            return kind(host, config)

    return Plugin()


def test_a_right_adapter_passes_and_the_random_streams_stay(make_host: Any, tumor_config: Any) -> None:
    numpy_state: Any = np.random.get_state()
    before = [random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()]
    check_adapter(make_host, config=tumor_config())
    numpy_state = np.random.get_state()
    assert [random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()] == before


@pytest.mark.parametrize("kind", FAULTS)
def test_a_wrong_one_is_told_what_it_does(kind: type[_Wrong], make_host: Any, tumor_config: Any) -> None:
    with pytest.raises(PluginError, match=FAULTS[kind]) as caught:
        check_adapter(make_host, plugins=[_plugin(kind)], config=tumor_config())
    assert "\n" not in str(caught.value)


def test_a_host_that_nobody_understands_is_refused(tumor_config: Any) -> None:
    with pytest.raises(HostNotSupportedError, match="got object"):
        check_adapter(lambda: (object(), []), config=tumor_config())


def test_a_plugin_that_returns_no_adapter_is_named(make_host: Any, tumor_config: Any) -> None:
    class Plugin:
        @hookimpl
        def roi_adapter(self, host: Any, config: Config) -> Any:
            return "an adapter"

    with pytest.raises(PluginError, match="must return an Adapter or None; got str"):
        check_adapter(make_host, plugins=[Plugin()], config=tumor_config())


def test_a_region_is_needed_to_feel_anything(make_host: Any) -> None:
    with pytest.raises(ConfigError, match="must name a region"):
        check_adapter(make_host, config=Config(regions=()))
