"""Hooks and who answers them: every hook is documented and called, and a failing plugin is named."""

from __future__ import annotations

import functools
import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import pluggy
import pytest
import torch

from roi_progressive.config import Config, RegionConfig
from roi_progressive.errors import PluginError
from roi_progressive.method.stages import Stage
from roi_progressive.plugins.adapter import Adapter
from roi_progressive.plugins.hookspecs import hookimpl
from roi_progressive.plugins.manager import Plugins, hookspecs

HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("roi_")}
FIRST_RESULT = {"roi_adapter", "roi_discriminator", "roi_masks", "roi_stages"}
CALLS: dict[str, dict[str, Any]] = {
    "roi_adapter": {"host": object(), "config": Config()},
    "roi_discriminator": {"region": RegionConfig("tumor"), "in_channels": 1, "smallest_px": 32},
    "roi_masks": {"path": Path("trainA/x.png"), "regions": ["tumor"]},
    "roi_stages": {"config": Config(), "n_epochs": 200},
    "roi_generator_losses": {"translation": object()},
    "roi_stage_started": {"stage": object(), "session": object()},
    "roi_host_lacks": {"host": object()},
    "roi_step_finished": {"step": 1, "losses": {"G_tumor_A2B": torch.ones(())}},
    "roi_checkpoint_saved": {"path": Path("1_roi_progressive.pth")},
    "roi_metrics": {"real": np.zeros((2, 2)), "fake": np.zeros((2, 2)), "mask": np.zeros((2, 2), bool)},
    "roi_volume_metrics": {
        **{"real": np.zeros((2, 2, 2)), "fake": np.zeros((2, 2, 2)), "masks": {"body": np.zeros((2, 2, 2), bool)}},
        "spacing_mm": (3.0, 1.0, 1.0),
    },
}


def plugin_with(name: str = "plugin", **hooks: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(function))
    return module


class SomeAdapter(Adapter):
    """One that answers nothing."""

    def generators(self) -> Any: ...
    def translations(self, masks: Any) -> Any: ...
    def install(self, session: Any, patches: Any) -> None: ...
    def learning_rates(self) -> Any: ...


def answers_to(hook: str) -> list[Any]:
    """Two answers that the hook allows."""
    made = {
        "roi_adapter": SomeAdapter,
        "roi_discriminator": torch.nn.Identity,
        "roi_masks": lambda: {"tumor": None},
        "roi_stages": lambda: [Stage(1, ())],
        "roi_generator_losses": lambda: {"edges": torch.zeros(())},
        "roi_host_lacks": lambda: {"theirs": ["netG"]},
        "roi_metrics": lambda: {"edges": 1.0},
        "roi_volume_metrics": lambda: {"Dice liver": 1.0},
    }.get(hook, object)
    return [made(), made()]


def recorder(hook: str, seen: list[dict[str, Any]], answer: Any) -> types.ModuleType:
    """A plugin whose hook takes exactly the specified arguments."""
    names = list(inspect.signature(HOOKS[hook]).parameters)
    scope: dict[str, Any] = {"seen": seen, "answer": answer}
    exec(f"def implementation({', '.join(names)}):\n    seen.append(locals().copy())\n    return answer", scope)
    return plugin_with("recorder", **{hook: scope["implementation"]})


# -- the contract -----------------------------------------------------------------------------------------------------


def test_the_hooks_are_these_and_no_others() -> None:
    assert set(HOOKS) == set(CALLS)


@pytest.mark.parametrize("hook", CALLS)
def test_every_hook_hands_its_arguments_to_a_plugin_and_brings_the_answer_back(hook: str) -> None:
    seen: list[dict[str, Any]] = []
    plugins = Plugins([recorder(hook, seen, answer := answers_to(hook)[0])])
    came = plugins.call(hook, **CALLS[hook])
    assert list(seen[0]) == list(CALLS[hook])
    assert all(seen[0][name] is value for name, value in CALLS[hook].items())
    if hook in FIRST_RESULT:
        assert came is answer
    else:
        assert came[0] is answer


@pytest.mark.parametrize("hook", CALLS)
def test_every_hook_may_be_implemented_with_fewer_arguments(hook: str) -> None:
    given = answers_to(hook)[0]
    answer = Plugins([plugin_with(**{hook: lambda: given})]).call(hook, **CALLS[hook])
    assert answer is given or answer[0] is given


@pytest.mark.parametrize("hook", CALLS)
def test_every_hook_says_when_it_is_called_with_what_and_what_comes_back(hook: str) -> None:
    text, signature = inspect.getdoc(HOOKS[hook]) or "", inspect.signature(HOOKS[hook])
    assert text.startswith("Called ")
    arguments = text.split("Args:\n")[1].split("Returns:")[0]
    documented = [
        line.split(":")[0].strip() for line in arguments.splitlines() if line.startswith("    ") and line[4] != " "
    ]
    assert documented == list(signature.parameters)
    assert ("Returns:" in text) == (signature.return_annotation != "None")


@pytest.mark.parametrize("hook", CALLS)
def test_a_hook_asks_for_the_first_result_where_only_one_makes_sense(hook: str) -> None:
    late, early = answers_to(hook)
    plugins = Plugins([plugin_with("late", **{hook: lambda: late}), plugin_with("early", **{hook: lambda: early})])
    answer = plugins.call(hook, **CALLS[hook])
    if hook in FIRST_RESULT:
        assert answer is early
    else:
        ours = [given for given in answer if given is late or given is early]
        assert ours[0] is early and ours[1] is late


def test_the_hooks_of_one_answer_are_those_of_the_contract() -> None:
    manager = pluggy.PluginManager("roi_progressive")
    manager.add_hookspecs(hookspecs)
    specs = {name: getattr(manager.hook, name).spec for name in HOOKS}
    assert {name for name, spec in specs.items() if spec.opts["firstresult"]} == FIRST_RESULT


# -- who is asked -----------------------------------------------------------------------------------------------------


def test_what_the_user_gives_is_asked_before_the_defaults() -> None:
    theirs, ours = answers_to("roi_stages")
    default = plugin_with("default", roi_stages=lambda: ours)
    silent = plugin_with("silent", roi_stages=lambda: None)
    given = plugin_with("given", roi_stages=lambda: theirs)
    ask = CALLS["roi_stages"]
    assert Plugins([], [default]).call("roi_stages", **ask) is ours
    assert Plugins([silent], [default]).call("roi_stages", **ask) is ours
    plugins = Plugins([given], [default])
    assert plugins.call("roi_stages", **ask) is theirs
    assert plugins.names("roi_stages") == ["given", "default"]


def test_a_hook_nobody_answers_is_none_or_an_empty_list() -> None:
    assert Plugins().call("roi_stages", **CALLS["roi_stages"]) is None
    assert Plugins().call("roi_metrics", **CALLS["roi_metrics"]) == []


def test_two_sessions_do_not_share_their_plugins() -> None:
    Plugins([plugin_with(roi_stages=lambda: answers_to("roi_stages")[0])])
    assert Plugins().call("roi_stages", **CALLS["roi_stages"]) is None


class Counting:
    """A plugin with a state, as an object."""

    def __init__(self, answer: str = "", fails: bool = False) -> None:
        self.answer, self.fails = answer, fails

    @hookimpl
    def roi_metrics(self, mask: np.ndarray) -> dict[str, float]:
        if self.fails:
            raise ZeroDivisionError("no pixel")
        return {self.answer: float(mask.sum())}


def test_objects_and_several_of_one_class_are_plugins_with_readable_names() -> None:
    plugins = Plugins([Counting("a"), Counting("b")])
    assert plugins.merged("roi_metrics", **CALLS["roi_metrics"]) == {"a": 0.0, "b": 0.0}
    names = plugins.names("roi_metrics")
    assert len(set(names)) == 2
    assert all("Counting" in name for name in names)


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plan = [], answers_to("roi_stages")[0]

    def load(self: pluggy.PluginManager, group: str) -> int:
        asked.append(group)
        self.register(plugin_with("installed", roi_stages=lambda: plan))
        return 1

    monkeypatch.setattr(pluggy.PluginManager, "load_setuptools_entrypoints", load)
    assert Plugins().call("roi_stages", **CALLS["roi_stages"]) is plan
    assert asked == ["roi_progressive"]


def test_an_entry_point_that_cannot_be_loaded_is_a_plugin_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: pluggy.PluginManager, group: str) -> int:
        raise ImportError("no module\nnamed theirs")

    monkeypatch.setattr(pluggy.PluginManager, "load_setuptools_entrypoints", load)
    with pytest.raises(
        PluginError, match=r"entry-point group `roi_progressive` cannot be loaded: no module named theirs; [^\n]+$"
    ):
        Plugins()


# -- what goes wrong at registration ----------------------------------------------------------------------------------

ONE_LINE = r"\A[^\n]+\Z"


def test_a_misspelled_hook_fails_at_once_and_the_known_ones_are_listed() -> None:
    with pytest.raises(PluginError, match=ONE_LINE) as caught:
        Plugins([plugin_with("theirs", roi_adaptor=lambda host: None)])
    message = str(caught.value)
    assert "roi_adaptor" in message
    assert "theirs" in message
    assert all(hook in message for hook in HOOKS)


def test_an_argument_the_hook_does_not_have_fails_at_once() -> None:
    with pytest.raises(PluginError, match=ONE_LINE) as caught:
        Plugins([plugin_with("theirs", roi_stages=lambda config, epochs: None)])
    assert "epochs" in str(caught.value)
    assert "theirs" in str(caught.value)


def test_a_plugin_given_twice_fails_at_once() -> None:
    plugin = plugin_with("theirs", roi_stages=lambda: None)
    for twice in ([plugin, plugin], [counting := Counting(), counting]):
        with pytest.raises(PluginError, match=ONE_LINE):
            Plugins(twice)


def test_two_modules_of_one_name_are_both_heard() -> None:
    plugins = Plugins([plugin_with("plugin", roi_metrics=lambda n=n: {n: 1.0}) for n in ("a", "b")])
    assert plugins.merged("roi_metrics", **CALLS["roi_metrics"]) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("plugin", [types.ModuleType("theirs"), "theirs", None], ids=["undecorated", "text", "none"])
def test_a_plugin_without_any_hook_is_not_passed_over_in_silence(plugin: Any) -> None:
    if isinstance(plugin, types.ModuleType):
        plugin.roi_stages = lambda: None  # the decorator was forgotten
    with pytest.raises(PluginError, match=r"^`plugins` holds [^\n]+ implements no hook; [^\n]+hookimpl$"):
        Plugins([plugin])


# -- what goes wrong in a call ----------------------------------------------------------------------------------------


class TheirError(Exception):
    pass


def raising(*_: Any) -> None:
    raise TheirError("their words")


@pytest.mark.parametrize("hook", CALLS)
def test_an_error_keeps_its_type_and_words_and_names_plugin_and_hook(hook: str) -> None:
    def implementation() -> None:
        raising()

    others = plugin_with("innocent", **{hook: lambda: None})
    plugins = Plugins([others, plugin_with("theirs", **{hook: implementation})])
    with pytest.raises(TheirError) as caught:
        plugins.call(hook, **CALLS[hook])
    assert type(caught.value) is TheirError
    assert caught.value.args == ("their words",)
    assert caught.value.__notes__ == [f"raised in plugin 'theirs', hook {hook}"]


def test_a_note_the_plugin_made_itself_stays() -> None:
    def implementation() -> None:
        error = TheirError()
        error.__notes__ = ["first"]
        raise error

    with pytest.raises(TheirError) as caught:
        Plugins([plugin_with("theirs", roi_stages=implementation)]).call("roi_stages", **CALLS["roi_stages"])
    assert caught.value.__notes__ == ["first", "raised in plugin 'theirs', hook roi_stages"]


def test_of_two_objects_of_one_class_the_failing_one_is_named() -> None:
    good, bad = Counting("good"), Counting("bad", fails=True)
    for order in ([good, bad], [bad, good]):
        plugins = Plugins(order)
        with pytest.raises(ZeroDivisionError) as caught:
            plugins.merged("roi_metrics", **CALLS["roi_metrics"])
        (note,) = caught.value.__notes__
        name = list(reversed(plugins.names("roi_metrics")))[order.index(bad)]
        assert repr(name) in note


def test_a_decorated_function_is_named_too() -> None:
    @functools.wraps(raising)
    def wrapper() -> None:
        raising()

    with pytest.raises(TheirError) as caught:
        Plugins([plugin_with("theirs", roi_stages=wrapper)]).call("roi_stages", **CALLS["roi_stages"])
    assert "'theirs'" in caught.value.__notes__[0]


def test_two_plugins_that_return_one_name_clash() -> None:
    plugins = Plugins([plugin_with(n, roi_metrics=lambda: {"ssim_edge": 1.0}) for n in ("one", "two")])
    with pytest.raises(PluginError, match=r"^`roi_metrics`: plugins 'two' and 'one' both return 'ssim_edge'; rename"):
        plugins.merged("roi_metrics", **CALLS["roi_metrics"])


def test_a_name_that_is_taken_is_told_with_its_plugin() -> None:
    plugins = Plugins(
        [plugin_with("one", roi_metrics=lambda: {}), plugin_with("two", roi_metrics=lambda: {"tpsnr": 1.0})]
    )
    with pytest.raises(PluginError, match=r"^`roi_metrics`: plugin 'two' returns 'tpsnr', which is taken; rename it$"):
        plugins.merged("roi_metrics", taken={"tpsnr"}, **CALLS["roi_metrics"])


def test_a_wrapper_is_around_the_answers_of_the_others() -> None:
    around = types.ModuleType("around")

    @functools.partial(setattr, around, "roi_metrics")
    @hookimpl(wrapper=True)
    def wrapper() -> Any:
        answers = yield
        return [{f"{name} again": value for name, value in answer.items()} for answer in answers]

    plugins = Plugins([around, *(plugin_with(n, roi_metrics=lambda n=n: {n: 1.0}) for n in ("one", "two"))])
    assert plugins.merged("roi_metrics", **CALLS["roi_metrics"]) == {"two again": 1.0, "one again": 1.0}


def test_an_error_around_which_a_wrapper_stands_names_the_wrapper_too() -> None:
    """Which of the two raised it cannot be told; neither is accused alone."""
    around = types.ModuleType("around")

    @functools.partial(setattr, around, "roi_metrics")
    @hookimpl(wrapper=True)
    def wrapper() -> Any:
        yield
        raise TheirError

    with pytest.raises(TheirError) as caught:
        Plugins([plugin_with("theirs", roi_metrics=lambda: {"a": 1.0}), around]).call(
            "roi_metrics", **CALLS["roi_metrics"]
        )
    assert caught.value.__notes__ == ["raised in plugin 'theirs' or in its wrapper 'around', hook roi_metrics"]


def test_different_names_are_joined_and_none_adds_nothing() -> None:
    answers = [{"a": 1.0}, None, {"b": 2.0, "c": 3.0}, {}]
    plugins = Plugins([plugin_with(f"p{n}", roi_metrics=lambda a=a: a) for n, a in enumerate(answers)])
    assert plugins.merged("roi_metrics", **CALLS["roi_metrics"]) == {"a": 1.0, "b": 2.0, "c": 3.0}


@pytest.mark.parametrize("answer", [1.0, ["a"], "a"])
def test_an_answer_that_is_no_mapping_is_a_plugin_error_in_one_line(answer: Any) -> None:
    plugins = Plugins([plugin_with("theirs", roi_metrics=lambda: answer)])
    with pytest.raises(PluginError, match=r"^`roi_metrics` must return numbers [^\n]+ from plugin 'theirs'[^\n]+$"):
        plugins.merged("roi_metrics", **CALLS["roi_metrics"])
