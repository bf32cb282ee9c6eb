"""Imports point down: every import of the package and the adapters, read from the source, against the layers below.

A module that is not in LAYERS fails, so that whoever adds one says where it belongs. What is imported only for the
type checker (under ``if TYPE_CHECKING``) may point up, since it is not there when the code runs; what `ONLY` and the
rule for adapters say holds for it all the same.
"""

from __future__ import annotations

import ast
import configparser
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "roi_progressive"

# From low to high. A module imports from lower layers only; `SIBLINGS` lists what it may take from its own layer.
# A folder (host, data, ...) stands here as one name.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors error_texts",
        "whole_files",
        "parallel setting_checks state_checks",
        "config",
        "rng distributed precision finite",
        "regions stages ggd adversarial generator pools patch_geometry plugin_networks discriminators",
        "patching tap features epoch_means",
        "adapter uncertainty",
        "hookspecs answer_checks",
        "plugins masks",
        "checkpoint recognition plugin_answers",
        "shares",
        "objective",
        "learner",
        "guidance",
        "steps",
        "session_state",
        "session",
        "host data evaluation testing inspection launch progress command_line checkout mask_coverage step_cost",
        "host_check pytest_plugin",
        "train_options",
        "run_folder run_optimizers run_average",
        "run",
        "translate",
        "score_files",
        "results",
        "demo_report run_figure",
        "demo",
        "cli",
    )
)
SIBLINGS: dict[str, frozenset[str]] = {
    "pools": frozenset({"regions"}),
    "discriminators": frozenset({"regions", "adversarial", "pools", "patch_geometry", "plugin_networks"}),
    "plugin_networks": frozenset({"regions"}),
    "generator": frozenset({"ggd"}),
    "testing": frozenset({"testing", "data"}),
}
# Modules and folders that may use these and nothing else of ours, however high they stand; a folder's own files may
# use each other.
ONLY: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "error_texts": frozenset(),
    "whole_files": frozenset({"errors", "error_texts"}),
    "parallel": frozenset({"errors"}),
    "host": frozenset({"errors", "error_texts", "whole_files", "generator", "discriminators", "ggd"}),
    # Processes are no business of the training's; volumes are prepared in several.
    "data": frozenset({"errors", "error_texts", "whole_files", "parallel"}),
    "evaluation": frozenset({"errors", "error_texts", "whole_files"}),
}
# Adapters use public names, each other, and these modules.
ADAPTERS_MAY_USE = frozenset({"adapter", "checkpoint", "distributed", "masks", "patching", "regions", "rng"})

# Imported inside the functions that use them, never by importing one of our modules.
HEAVY = frozenset({"torchvision", "lpips", "pytorch_fid", "matplotlib", "skimage", "SimpleITK", "pydicom"})
# Distribution -> what it is imported as, where the two differ.
IMPORTED_AS = {"scikit-image": "skimage", "pillow": "PIL", "pytorch-fid": "pytorch_fid"}


@dataclass(frozen=True)
class Import:
    """One imported thing: ``target`` is the dotted module, ``name`` what is taken from it (or None)."""

    target: str
    name: str | None
    line: int
    relative: bool
    type_only: bool
    in_function: bool


def _imports(source: str, module: str, is_package: bool) -> Iterator[Import]:
    parts = module.split(".") if is_package else module.split(".")[:-1]

    def walk(node: ast.AST, type_only: bool, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, False, type_only, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(target, alias.name, node.lineno, node.level > 0, type_only, in_function)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, True, in_function)
            for child in node.orelse:
                yield from walk(child, type_only, in_function)
        else:
            inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from walk(child, type_only, inside)

    yield from walk(ast.parse(source), False, False)


def _public_names() -> dict[str, str]:
    """Public name -> the module it comes from, read from the package's ``__init__`` without importing it."""
    source = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = _imports(source, PACKAGE, is_package=True)
    return {one.name: one.target.rpartition(".")[2] for one in found if one.type_only and one.name is not None}


PUBLIC = _public_names()


def _place(one: Import) -> str | None:
    """The entry of LAYERS that an import of ours reaches; None for the package itself."""
    steps = one.target.split(".")
    if len(steps) > 1:
        return steps[1]
    if one.name is None or one.name.startswith("__"):
        return None
    return PUBLIC.get(one.name, one.name)


def _height(place: str) -> int | None:
    return next((height for height, layer in enumerate(LAYERS) if place in layer), None)


def _ours(source: str, module: str, is_package: bool) -> Iterator[Import]:
    return (one for one in _imports(source, module, is_package) if one.target.split(".")[0] == PACKAGE)


def core_faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one core module, as lines to read."""
    here = module.split(".")[1]
    if _height(here) is None:
        return [f"{module} is not in LAYERS; add it to the layers"]
    return [
        f"{module}:{one.line} imports {_place(one) or PACKAGE}: {fault}"
        for one in _ours(source, module, is_package)
        if (fault := _fault(here, one)) is not None
    ]


def _fault(here: str, one: Import) -> str | None:
    there = _place(one)
    if there is None:
        return "name what you need" if one.name is None else None
    if there == "adapters":
        return "the core never imports adapters, they are found as plugins"
    low, high = _height(there), _height(here)
    if low is None or high is None:
        return f"{there} is not in LAYERS; add it to the layers"
    if here in ONLY:
        allowed = ONLY[here] | {here}
        return None if there in allowed else f"{here} uses only {', '.join(sorted(allowed))}"
    if one.type_only or low < high or there in SIBLINGS.get(here, frozenset()):
        return None
    return "the arrow points up" if low > high else "the arrow points sideways, and SIBLINGS does not list it"


def adapter_faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one adapter, as lines to read."""
    allowed = {*PUBLIC, *ADAPTERS_MAY_USE, "__version__", None}
    faults = []
    for one in _ours(source, module, is_package):
        steps = one.target.split(".")
        if steps[1:2] == ["adapters"]:
            if not one.relative:
                faults.append(f"{module}:{one.line} imports {one.target}: write siblings as relative imports")
        elif (one.name if len(steps) == 1 else steps[1]) not in allowed:
            faults.append(f"{module}:{one.line} imports {one.name or one.target}: that is no public name")
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == PACKAGE
            and node.attr not in allowed
        ):
            faults.append(f"{module}:{node.lineno} reaches for {PACKAGE}.{node.attr}: that is no public name")
    return faults


# --- the tree ---------------------------------------------------------------------------------------------------------


def _modules(folder: str, prefix: str) -> dict[str, Path]:
    """Dotted name -> file; the linked adapters are read once, from their own folder."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        steps = path.relative_to(ROOT / folder).with_suffix("").parts
        if not (folder == PACKAGE and steps[0] == "adapters"):
            found[".".join((prefix, *(step for step in steps if step != "__init__")))] = path
    return found


CORE = {name: path for name, path in _modules(PACKAGE, PACKAGE).items() if name != PACKAGE}
ADAPTERS = _modules("adapters", f"{PACKAGE}.adapters")
EVERY = {PACKAGE: ROOT / PACKAGE / "__init__.py", **CORE, **ADAPTERS}


def _read(name: str) -> tuple[str, str, bool]:
    return EVERY[name].read_text(encoding="utf-8"), name, EVERY[name].stem == "__init__"


def _third_party(name: str) -> Iterator[tuple[str, Import]]:
    for one in _imports(*_read(name)):
        top = one.target.split(".")[0]
        if top != PACKAGE and top not in sys.stdlib_module_names | {"tomllib"}:  # of the library from 3.11 on
            yield top, one


@pytest.mark.parametrize("name", CORE)
def test_a_core_module_imports_only_what_lies_below_it(name: str) -> None:
    assert core_faults(*_read(name)) == []


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_imports_only_public_names(name: str) -> None:
    assert adapter_faults(*_read(name)) == []


def test_the_package_itself_runs_no_import_of_ours() -> None:
    assert [one for one in _ours(*_read(PACKAGE)) if not one.type_only] == []


@pytest.mark.parametrize("name", EVERY)
def test_no_module_imports_a_heavy_package_by_being_imported(name: str) -> None:
    loaded = {top for top, one in _third_party(name) if not one.type_only and not one.in_function}
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", EVERY)
def test_every_third_party_import_is_a_declared_dependency(name: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["medical"]
    declared = {re.split(r"[<>=;\[ ]", line)[0] for line in lines.splitlines() if line}
    importable = {IMPORTED_AS.get(one, one) for one in declared}
    # pytest itself imports its plugin, and nothing else does.
    brought = {"pytest"} if name == f"{PACKAGE}.pytest_plugin" else set()
    assert {top for top, _ in _third_party(name)} - brought <= importable


# --- the walker itself: it must see what it is there to see -----------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("config", "from .session import Session", "up"),
        ("config", "from . import session", "up"),
        ("config", "import roi_progressive.training.session", "up"),
        ("config", "from roi_progressive import attach", "up"),
        ("config", "from roi_progressive.training.session import attach", "up"),
        ("config", "def later():\n    from .session import Session", "up"),
        ("config", "try:\n    from .session import Session\nexcept ImportError:\n    pass", "up"),
        ("config", "if TYPE_CHECKING:\n    pass\nelse:\n    from .session import Session", "up"),
        ("stages", "from .ggd import ggd_nll", "sideways"),
        ("ggd", "from .generator import UNetGenerator", "sideways"),
        ("data.prepare", "from ..config import Config", "data uses only"),
        ("data.prepare", "if TYPE_CHECKING:\n    from ..session import Session", "data uses only"),
        ("evaluation.table", "from ..data.splits import split", "evaluation uses only"),
        ("host.trainer", "from ..session import Session", "host uses only"),
        ("session", "from .adapters.junyanz import JunyanzAdapter", "found as plugins"),
        ("session", "from . import adapters", "found as plugins"),
        ("session", "import roi_progressive", "name what you need"),
        ("session", "from .newcomer import thing", "add it to the layers"),
        ("newcomer", "", "add it to the layers"),
    ],
)
def test_a_wrong_import_in_the_core_is_seen(module: str, source: str, word: str) -> None:
    faults = core_faults(source, f"{PACKAGE}.{module}")
    assert len(faults) == 1
    assert word in faults[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("session", "from . import __version__, plugins\nfrom .guidance import Guidance"),
        ("session", "from roi_progressive import Config"),
        ("hookspecs", "if TYPE_CHECKING:\n    from .session import Session"),
        ("hookspecs", "import typing\nif typing.TYPE_CHECKING:\n    from .session import Session"),
        (
            "data.prepare",
            "from .splits import split\nfrom ..errors import DataError\nimport roi_progressive.data.splits",
        ),
        ("cli", "from .data import prepare\nfrom .evaluation.table import table"),
        ("config", "import session"),
    ],
)
def test_a_right_import_in_the_core_passes(module: str, source: str) -> None:
    assert core_faults(source, f"{PACKAGE}.{module}") == []


def test_relative_imports_are_resolved_from_a_package_as_python_does() -> None:
    source = "from . import splits\nfrom .. import session"
    assert len(core_faults(source, f"{PACKAGE}.data", is_package=True)) == 1
    assert [one.target for one in _imports(source, f"{PACKAGE}.data", True)] == [f"{PACKAGE}.data", PACKAGE]
    assert [one.target for one in _imports(source, f"{PACKAGE}.data.prepare", False)] == [f"{PACKAGE}.data", PACKAGE]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("from roi_progressive import Adapter, hookimpl\nimport roi_progressive\nfrom . import junyanz", 0),
        ("from .junyanz import JunyanzAdapter\nfrom roi_progressive.plugins.patching import Patches", 0),
        ("import roi_progressive\nroi_progressive.attach", 0),
        ("from roi_progressive import session", 1),
        ("from roi_progressive.training.session import Session", 1),
        ("from ..session import Session", 1),
        ("import roi_progressive.training.session", 1),
        ("import roi_progressive\nroi_progressive.session.Session", 1),
        ("from roi_progressive.adapters.junyanz import JunyanzAdapter", 1),
    ],
)
def test_an_import_past_the_public_names_is_seen_in_an_adapter(source: str, faults: int) -> None:
    assert len(adapter_faults(source, f"{PACKAGE}.adapters.cut")) == faults


def test_heavy_imports_are_told_apart_by_where_they_stand() -> None:
    source = textwrap.dedent(
        """
        import lpips
        if TYPE_CHECKING:
            import matplotlib
        class Metric:
            import skimage
            def score(self):
                import pytorch_fid
        """
    )
    found = _imports(source, f"{PACKAGE}.evaluation.metrics", False)
    assert [one.target for one in found if not one.type_only and not one.in_function] == ["lpips", "skimage"]


def test_every_name_stands_in_one_layer_and_every_rule_speaks_of_a_layer() -> None:
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))
    spoken_of = {*SIBLINGS, *ONLY, *ADAPTERS_MAY_USE, *PUBLIC.values()}
    spoken_of = spoken_of.union(*SIBLINGS.values(), *ONLY.values())
    assert spoken_of <= set(names)
