"""The public surface: which names there are, where they come from, and that loading them late shows nowhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import roi_progressive

SURFACE = {
    "config": ["Config", "GGDConfig", "RegionConfig", "StageConfig"],
    "errors": [
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DivergenceError",
        "HostNotSupportedError",
        "MaskError",
        "PluginError",
        "RoiProgressiveError",
        "ShapeError",
    ],
    "method.bank": ["DiscriminatorBank"],
    "method.discriminators": ["PatchDiscriminator", "RegionDiscriminator"],
    "method.generator": ["UNetGenerator"],
    "method.ggd": ["GGDHead", "ggd_nll", "ggd_variance"],
    "method.regions": ["RegionMask"],
    "method.stages": ["Stage", "StageController"],
    "plugins.adapter": ["Adapter", "DatasetLayout", "DomainMasks", "GuidedSession", "Translation", "Uncertainty"],
    "plugins.hookspecs": ["hookimpl"],
    "plugins.mask_reader": ["MaskReader"],
    "plugins.patching": ["Patches"],
    "runs.commands": ["evaluate", "figure", "prepare", "train"],
    "runs.volume": ["translate_volume"],
    "runtime.rng": ["RandomState"],
    "runs.export": ["export"],
    "saving.checkpoint": ["checkpoint_name"],
    "training.session": ["Session", "attach"],
}
MODULE_OF = {name: module for module, names in SURFACE.items() for name in names}
SOURCE = ast.parse(Path(roi_progressive.__file__).read_text(encoding="utf-8"))


def _defined_here(value: Any) -> bool:
    is_alias = isinstance(value, types.GenericAlias)  # which Python 3.10 takes for a class
    return not is_alias and (inspect.isclass(value) or inspect.isfunction(value))


def _fresh() -> ModuleType:
    """The package as a new import would give it, beside the one every other test uses."""
    spec = importlib.util.spec_from_file_location("roi_progressive", roi_progressive.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_public_names_are_these_and_changing_them_takes_a_line_in_the_changelog() -> None:
    assert set(roi_progressive.__all__) == set(MODULE_OF)


GUIDED_SESSION = {
    *("config", "losses", "masks_arrived", "n_processes", "save", "save_epoch", "stage", "step_abandoned"),
    *("step_finished", "step_may_start", "step_started", "translated", "uncertainty"),
}
FROZEN = {
    "GuidedSession": GUIDED_SESSION,
    "Session": {
        *GUIDED_SESSION,
        *("close", "discriminator_step", "dropped_steps", "generator_loss", "load_state_dict", "networks", "stages"),
        "loss_tensors",
        *("standalone", "start_epoch", "state_dict"),
    },
    "Adapter": {
        *("betas", "dataset_layout", "epoch_begins", "generator_loss", "generators", "host_state", "image_files"),
        *(
            "install",
            "is_training",
            "kept_losses",
            "last_epoch",
            "learning_rates",
            "load_host_state",
            "n_epochs",
            "name",
        ),
        *("resume_file", "translations"),
    },
    "DatasetLayout": {"domains", "image_modules", "loader", "paths"},
    "Patches": {"on_undo", "set", "undo", "wrap"},
    "RandomState": {"from_plain", "now", "numpy", "python", "restore", "to_plain", "torch_cpu", "torch_cuda"},
    "RegionMask": {
        *("boxes", "from_tensor", "inside", "is_empty", "is_finite", "joined", "mask", "mirrored", "of_samples"),
        "window_groups",
    },
    "Stage": {"from_epoch", "from_fraction", "number", "terms"},
    "Translation": {
        *("direction", "fake", "identity", "masks", "paired", "real", "real_masks", "reconstruction", "source"),
    },
    "Uncertainty": {"count", "image", "index", "scale", "shape", "sigma"},  # a tuple, with a tuple's two methods
}
"""What other people's scripts and adapters call or answer; a name that goes away breaks them."""


@pytest.mark.parametrize("name", FROZEN)
def test_the_methods_of_a_public_class_are_these(name: str) -> None:
    kind = getattr(roi_progressive, name)
    annotated = {field for base in kind.__mro__ for field in vars(base).get("__annotations__", {})}
    held = {attribute for attribute in {*dir(kind), *annotated} if not attribute.startswith("_")}
    if name == "Session":
        held |= {"config"}  # set when it is made
    assert held == FROZEN[name]


def test_the_names_for_peoples_own_tests_are_these() -> None:
    names = ["ToyHost", "check_adapter", "check_discriminator", "default_step", "phantom_batch", "phantom_config"]
    assert importlib.import_module("roi_progressive.testing").__all__ == names


def test_the_arguments_of_attach_are_these() -> None:
    assert list(inspect.signature(roi_progressive.attach).parameters) == [
        *("host", "dataset", "config", "n_epochs", "plugins")
    ]


def test_the_public_names_stand_sorted_and_once() -> None:
    assert roi_progressive.__all__ == sorted(set(roi_progressive.__all__))


def test_no_public_name_hides_a_submodule() -> None:
    folder = Path(roi_progressive.__file__).parent
    submodules = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert submodules.isdisjoint(roi_progressive.__all__)


@pytest.mark.parametrize("name", MODULE_OF)
def test_a_public_name_is_the_very_object_of_its_module(name: str) -> None:
    module = importlib.import_module(f"roi_progressive.{MODULE_OF[name]}")
    assert getattr(roi_progressive, name) is getattr(module, name)
    assert vars(roi_progressive)[name] is getattr(module, name), "after the first use it is an ordinary attribute"


@pytest.mark.parametrize("name", MODULE_OF)
def test_a_public_class_or_function_names_the_module_that_defines_it(name: str) -> None:
    value = getattr(roi_progressive, name)
    if _defined_here(value):
        assert value.__module__ == f"roi_progressive.{MODULE_OF[name]}"
        assert value.__qualname__ == name
        assert inspect.getmodule(value) is importlib.import_module(value.__module__)
        assert inspect.getsource(value).lstrip("@").strip()
    else:
        assert name in ("DomainMasks", "hookimpl")


@pytest.mark.parametrize("name", MODULE_OF)
def test_a_public_class_or_function_pickles_by_reference(name: str) -> None:
    value = getattr(roi_progressive, name)
    if _defined_here(value):
        assert pickle.loads(pickle.dumps(value)) is value


@pytest.mark.parametrize("name", MODULE_OF)
def test_a_public_name_is_callable_with_a_docstring_of_its_own(name: str) -> None:
    value = getattr(roi_progressive, name)
    assert callable(value)
    if _defined_here(value):
        assert (value.__doc__ or "").strip(), "inspect.getdoc would be content with the parent's"
        assert not (value.__doc__ or "").startswith(f"{name}("), "that is the signature which dataclass writes"


@pytest.mark.parametrize("name", [name for name in MODULE_OF if name not in SURFACE["errors"]])
def test_a_public_function_or_constructor_is_fully_annotated(name: str) -> None:
    value = getattr(roi_progressive, name)
    if not _defined_here(value):
        return
    if getattr(value, "_is_protocol", False):  # nothing is made of it: its methods are what it has
        methods = [member for name, member in inspect.getmembers(value, inspect.isfunction) if not name.startswith("_")]
        assert len(methods) > 5 and all("return" in inspect.get_annotations(method) for method in methods)
        return
    signature = inspect.signature(value)
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []
    if inspect.isfunction(value):
        assert signature.return_annotation is not inspect.Signature.empty


def test_the_package_loads_nothing_before_a_name_is_used() -> None:
    fresh = _fresh()
    assert set(fresh.__all__).isdisjoint(vars(fresh))
    assert fresh.Config is roi_progressive.Config
    assert set(fresh.__all__) & set(vars(fresh)) == {"Config"}


def test_dir_lists_every_public_name_before_it_was_used() -> None:
    fresh = _fresh()
    assert {*fresh.__all__, "__version__", "__doc__"} <= set(dir(fresh))
    assert dir(fresh) == sorted(set(dir(fresh)))


def test_a_star_import_brings_the_public_names_and_no_other() -> None:
    namespace: dict[str, Any] = {}
    exec("from roi_progressive import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(MODULE_OF)


@pytest.mark.parametrize("name", ["atach", "sesion", "__wrapped__", "__path_hooks__"])
def test_an_unknown_name_is_the_usual_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'roi_progressive' has no attribute '{name}'"):
        getattr(roi_progressive, name)
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from roi_progressive import {name}")


def test_inspect_reads_the_package_like_any_other() -> None:
    members = dict(inspect.getmembers(roi_progressive))
    assert set(MODULE_OF) <= set(members)
    assert inspect.getsource(roi_progressive) == Path(roi_progressive.__file__).read_text(encoding="utf-8")
    assert inspect.unwrap(roi_progressive) is roi_progressive  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adapters", "data", "evaluation", "host"])
def test_a_subpackage_is_imported_by_either_spelling(name: str) -> None:
    module = importlib.import_module(f"roi_progressive.{name}")
    namespace: dict[str, Any] = {}
    exec(f"from roi_progressive import {name}\nimport roi_progressive.{name}", namespace)
    assert namespace[name] is module
    assert getattr(roi_progressive, name) is module


def test_the_type_checker_is_told_the_same_names_from_the_same_modules() -> None:
    told = {}
    for block in SOURCE.body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for line in block.body:
                assert isinstance(line, ast.ImportFrom)
                assert line.level == 1
                told.update({alias.asname or alias.name: line.module for alias in line.names})
    assert told == MODULE_OF


def test_the_version_is_written_as_a_literal_for_the_build_to_read() -> None:
    """``attr:`` in setup.cfg reads a literal from the source; anything else it would have to import."""
    literals = [
        line.value.value
        for line in SOURCE.body
        if isinstance(line, ast.Assign)
        and [target.id for target in line.targets if isinstance(target, ast.Name)] == ["__version__"]
        and isinstance(line.value, ast.Constant)
    ]
    assert literals == [roi_progressive.__version__]
