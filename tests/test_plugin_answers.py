"""A plugin that returns something else than its hook allows is named, in one line, where it happens."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roi_progressive import Config, PluginError, RegionConfig, attach, hookimpl
from roi_progressive.method.stages import default_plan
from roi_progressive.plugins.manager import Plugins
from roi_progressive.testing import ToyHost, phantom_config


def theirs(hook: str, answer: Any, name: str = "theirs") -> types.ModuleType:
    module = types.ModuleType(name)
    setattr(module, hook, hookimpl(lambda: answer))
    return module


@pytest.mark.parametrize("answer", [3, [3], [], "thirds", {}])
def test_a_plan_that_is_no_list_of_stages(answer: Any, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"\A`roi_stages` must return a list [^\n]+ from plugin 'theirs'; [^\n]+\Z"):
        attach(ToyHost(tmp_path), None, phantom_config(), plugins=[theirs("roi_stages", answer)])


def test_a_plan_of_stages_and_none_are_taken() -> None:
    plan = list(default_plan(Config()))
    assert Plugins([theirs("roi_stages", plan)]).stages(Config(), 10) is plan
    assert Plugins().stages(Config(), 10) is None


@pytest.mark.parametrize("answer", [3, [], "x.png", {"tumor": "x.png"}, {"tumor": 3}, {"tumr": None}])
def test_masks_that_are_no_paths_of_the_regions(answer: Any) -> None:
    plugins = Plugins([theirs("roi_masks", answer)])
    with pytest.raises(PluginError, match=r"\A`roi_masks` must return [^\n]+ from plugin 'theirs'; [^\n]+\Z"):
        plugins.mask_files(Path("x.png"), ["tumor"])


def test_masks_that_nobody_finds() -> None:
    with pytest.raises(PluginError, match=r"\A`roi_masks` must return [^\n]+; got nothing from theirs; [^\n]+\Z"):
        Plugins([theirs("roi_masks", None)]).mask_files(Path("x.png"), ["tumor"])


def test_masks_by_region_are_taken() -> None:
    files = {"tumor": Path("m.png"), "liver": None}
    assert Plugins([theirs("roi_masks", files)]).mask_files(Path("x.png"), ["liver", "tumor"]) == files


@pytest.mark.parametrize(
    ("hook", "answer", "words"),
    [
        ("roi_generator_losses", {"edges": 3.0}, "got float for 'edges' from plugin 'theirs'"),
        ("roi_generator_losses", {"edges": torch.ones(2)}, "got [2] for 'edges' from plugin 'theirs'"),
        ("roi_generator_losses", 3, "got int from plugin 'theirs'"),
        ("roi_discriminator", 3, "got int for region 'tumor' from plugin 'theirs'"),
    ],
)
def test_a_wrong_answer_in_a_step(hook: str, answer: Any, words: str, tmp_path: Path) -> None:
    host = ToyHost(tmp_path)
    with attach(host, None, phantom_config(), plugins=[theirs(hook, answer)]) as session:
        session.start_epoch(1)
        with pytest.raises(PluginError) as caught:
            host.step(next(host.batches()))
    assert words in str(caught.value) and f"`{hook}`" in str(caught.value) and "\n" not in str(caught.value)


WRONG: dict[str, list[Any]] = {
    "roi_adapter": ["an adapter", object()],
    "roi_discriminator": [3, [torch.nn.Identity()]],
    "roi_masks": [{"tumor": "x.png"}],
    "roi_stages": [[]],
    "roi_generator_losses": [{"edges": 1.0}, {"edges": torch.ones(2)}, {3: torch.ones(())}, [torch.ones(())]],
    "roi_metrics": [{"edges": "1"}, {"edges": [1.0]}, {3: 1.0}, 1.0],
    "roi_host_lacks": [{"theirs": "netG"}, ["netG"], {"theirs": [3]}],
}
CALLS: dict[str, dict[str, Any]] = {
    "roi_adapter": {"host": object(), "config": Config()},
    "roi_discriminator": {"region": RegionConfig("tumor"), "in_channels": 1, "smallest_px": 32},
    "roi_masks": {"path": Path("x.png"), "regions": ["tumor"]},
    "roi_stages": {"config": Config(), "n_epochs": 9},
    "roi_generator_losses": {"translation": object()},
    "roi_metrics": {name: np.zeros((2, 2)) for name in ("real", "fake", "mask")},
    "roi_host_lacks": {"host": object()},
}


@pytest.mark.parametrize(("hook", "answer"), [(hook, answer) for hook in WRONG for answer in WRONG[hook]])
@pytest.mark.parametrize("wrong_one", ["first", "second", "third"])
def test_of_several_plugins_the_one_that_answered_wrong_is_named(hook: str, answer: Any, wrong_one: str) -> None:
    names = ["first", "second", "third"]
    plugins = Plugins([theirs(hook, answer if name == wrong_one else None, name) for name in names])
    with pytest.raises(
        PluginError, match=rf"\A`{hook}` must return [^\n]+ from plugin '{wrong_one}'; [^\n]+\Z"
    ) as caught:
        plugins.call(hook, **CALLS[hook])
    assert not any(name in str(caught.value) for name in names if name != wrong_one)
