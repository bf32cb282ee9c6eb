"""A plugin that returns something else than its hook allows is named, in one line, where it happens."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive import Config, PluginError, attach, hookimpl
from roi_progressive.plugin_answers import mask_files, planned_stages
from roi_progressive.plugins import Plugins
from roi_progressive.stages import default_plan
from roi_progressive.testing import ToyHost, phantom_config


def theirs(hook: str, answer: Any) -> types.ModuleType:
    module = types.ModuleType("theirs")
    setattr(module, hook, hookimpl(lambda: answer))
    return module


@pytest.mark.parametrize("answer", [3, [3], [], "thirds", {}])
def test_a_plan_that_is_no_list_of_stages(answer: Any, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"\A`roi_stages` must return a list [^\n]+ from one of theirs; [^\n]+\Z"):
        attach(ToyHost(tmp_path), None, phantom_config(), plugins=[theirs("roi_stages", answer)])


def test_a_plan_of_stages_and_none_are_taken() -> None:
    plan = list(default_plan(Config()))
    assert planned_stages(Plugins([theirs("roi_stages", plan)]), Config(), 10) is plan
    assert planned_stages(Plugins(), Config(), 10) is None


@pytest.mark.parametrize("answer", [3, [], "x.png", {"tumor": "x.png"}, {"tumor": 3}, {"tumr": None}, None])
def test_masks_that_are_no_paths_of_the_regions(answer: Any) -> None:
    plugins = Plugins([theirs("roi_masks", answer)])
    with pytest.raises(PluginError, match=r"\A`roi_masks` must return [^\n]+ from one of theirs; [^\n]+\Z"):
        mask_files(plugins, Path("x.png"), ["tumor"])


def test_masks_by_region_are_taken() -> None:
    files = {"tumor": Path("m.png"), "liver": None}
    assert mask_files(Plugins([theirs("roi_masks", files)]), Path("x.png"), ["liver", "tumor"]) == files


@pytest.mark.parametrize(
    ("hook", "answer", "words"),
    [
        ("roi_generator_losses", {"edges": 3.0}, "got float for 'edges' from one of theirs"),
        ("roi_generator_losses", {"edges": torch.ones(2)}, "got [2] for 'edges' from one of theirs"),
        ("roi_generator_losses", 3, "got int from one of theirs"),
        ("roi_discriminator", 3, "got int for region 'tumor'"),
    ],
)
def test_a_wrong_answer_in_a_step(hook: str, answer: Any, words: str, tmp_path: Path) -> None:
    host = ToyHost(tmp_path)
    with attach(host, None, phantom_config(), plugins=[theirs(hook, answer)]) as session:
        session.start_epoch(1)
        with pytest.raises(PluginError) as caught:
            host.step(next(host.batches()))
    assert words in str(caught.value) and f"`{hook}`" in str(caught.value) and "\n" not in str(caught.value)
