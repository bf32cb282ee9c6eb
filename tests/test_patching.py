"""Patches on foreign objects: in force until `undo`, and then no trace of them."""

from __future__ import annotations

import types

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from roi_progressive.plugins.patching import Patches


class Host:
    shared = "class"

    def __init__(self) -> None:
        self.own = "instance"
        self.calls: list[tuple[object, ...]] = []

    def step(self, *args: object, **kwargs: object) -> str:
        """Do a step."""
        self.calls.append((args, kwargs))
        return "stepped"


def test_a_patched_attribute_comes_back_as_it_was() -> None:
    host, patches = Host(), Patches()
    patches.set(host, "own", 1)
    assert host.own == 1
    patches.undo()
    assert host.own == "instance"


def test_a_shadowed_class_attribute_shows_again_and_leaves_the_instance_bare() -> None:
    host, patches = Host(), Patches()
    before = dict(vars(host))
    patches.set(host, "shared", 1)
    assert host.shared == 1
    assert Host.shared == "class"
    patches.undo()
    assert vars(host) == before
    assert host.shared == "class"


def test_an_attribute_that_was_not_there_is_gone_afterwards() -> None:
    host, patches = Host(), Patches()
    patches.set(host, "new", None)
    assert host.new is None
    patches.undo()
    assert not hasattr(host, "new")


def test_an_attribute_that_was_none_is_none_afterwards() -> None:
    host, patches = Host(), Patches()
    host.own = None
    patches.set(host, "own", 1)
    patches.undo()
    assert vars(host)["own"] is None


def test_several_patches_of_one_attribute_are_undone_latest_first() -> None:
    host, patches = Host(), Patches()
    before = list(vars(host))
    for value in range(3):
        patches.set(host, "own", value)
        patches.set(host, "new", value)
    patches.undo()
    assert list(vars(host)) == before
    assert host.own == "instance"


def test_a_wrapped_method_is_called_through_and_then_is_the_classs_again() -> None:
    host, patches = Host(), Patches()

    def around(original: object, *args: object, **kwargs: object) -> str:
        return f"before, {original(*args, **kwargs)}, after"

    patches.wrap(host, "step", around)
    assert host.step(1, key=2) == "before, stepped, after"
    assert host.calls == [((1,), {"key": 2})]
    assert (host.step.__name__, host.step.__doc__) == ("step", "Do a step.")
    assert Host().step() == "stepped", "other instances are not touched"
    patches.undo()
    assert "step" not in vars(host)
    assert host.step() == "stepped"


def test_a_method_wrapped_twice_runs_the_later_wrapper_outside() -> None:
    host, patches = Host(), Patches()
    for name in ("inner", "outer"):
        patches.wrap(host, "step", lambda original, name=name: f"{name}({original()})")
    assert host.step() == "outer(inner(stepped))"


def test_a_loader_that_guards_its_dataset_can_be_patched() -> None:
    loader, patches = DataLoader(TensorDataset(torch.zeros(2))), Patches()
    original, other = loader.dataset, TensorDataset(torch.ones(2))
    with pytest.raises(ValueError):
        loader.dataset = other
    patches.set(loader, "dataset", other)
    assert next(iter(loader))[0].item() == 1
    patches.undo()
    assert loader.dataset is original


def test_a_module_can_be_patched() -> None:
    module, patches = types.ModuleType("host"), Patches()
    module.Image = "PIL"
    patches.set(module, "Image", "ours")
    assert module.Image == "ours"
    patches.undo()
    assert module.Image == "PIL"


def test_network_parameters_and_submodules_are_not_mistaken_for_attributes() -> None:
    network, patches = torch.nn.Sequential(torch.nn.Linear(2, 2)), Patches()
    keys = list(network.state_dict())
    patches.wrap(network, "forward", lambda original, x: original(x) * 0)
    assert not network(torch.ones(1, 2)).any()
    assert list(network.state_dict()) == keys
    patches.undo()
    assert network(torch.ones(1, 2)).any()


def test_an_object_that_cannot_be_patched_leaves_nothing_to_undo() -> None:
    class Slotted:
        __slots__ = ("value",)

    patches = Patches()
    for owner in (Slotted(), Slotted):  # without a __dict__, and with one that is read-only
        with pytest.raises(TypeError):
            patches.set(owner, "value", 1)
    patches.undo()


def test_undoing_takes_further_actions_along_in_reverse_order_and_once() -> None:
    done, patches = [], Patches()
    for name in "abc":
        patches.on_undo(lambda name=name: done.append(name))
    patches.undo()
    patches.undo()
    assert done == ["c", "b", "a"]


def test_patches_can_be_used_again_after_undo() -> None:
    host, patches = Host(), Patches()
    for _ in range(2):
        patches.set(host, "own", 1)
        patches.undo()
    assert host.own == "instance"


def test_an_action_that_fails_does_not_lose_the_others() -> None:
    host, patches = Host(), Patches()
    patches.set(host, "own", 1)
    patches.on_undo(lambda: (_ for _ in ()).throw(OSError("the handle is gone")))
    with pytest.raises(OSError, match="the handle is gone"):
        patches.undo()
    patches.undo()
    assert host.own == "instance"
