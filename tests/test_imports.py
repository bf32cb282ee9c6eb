"""Imports point one way: every import of the package and the adapters, read from the source, type annotations included.

``import_graph.py`` beside this file has the rules, and prints the picture.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _import_graph() -> ModuleType:
    """The command beside this file; tests are not importable from one another under pytest's importlib mode."""
    spec = importlib.util.spec_from_file_location("import_graph", Path(__file__).with_name("import_graph.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["import_graph"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


graph = _import_graph()
PACKAGE: str = graph.PACKAGE

# Imported inside the functions that use them, never by importing one of our modules.
HEAVY = frozenset(
    {
        *("torchvision", "lpips", "pytorch_fid", "matplotlib", "skimage", "SimpleITK", "pydicom", "highdicom"),
        *("tensorboard", "torchio", "wandb", "mlflow"),
    }
)
# Distribution -> what it is imported as, where the two differ.
IMPORTED_AS = {"scikit-image": "skimage", "pillow": "PIL", "pytorch-fid": "pytorch_fid"}


def _third_party(module: str) -> Iterator[tuple[str, object]]:
    for found in graph.imports_in(module):
        top = found.target.split(".")[0]
        if top != PACKAGE and top not in sys.stdlib_module_names | {"tomllib"}:  # of the library from 3.11 on
            yield top, found


def test_a_folder_imports_only_what_lies_below_it() -> None:
    faults = [
        fault
        for module, path in graph.CORE.items()
        if module != PACKAGE
        for fault in graph.faults_of(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
    ]
    assert faults == []


def test_no_circle_of_files_not_even_of_type_annotations() -> None:
    assert graph.circle(graph.graph()) == []


def test_no_circle_of_folders() -> None:
    assert graph.circle(graph.folder_arrows(graph.graph())) == []


def adapter_faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one adapter, as lines to read: adapters use public names and each other."""
    allowed = {*graph.PUBLIC, "__version__"}
    faults = []
    for found in graph.imports_of(source, module, is_package):
        steps = found.target.split(".")
        if steps[0] != PACKAGE:
            continue
        if steps[1:2] == ["adapters"]:
            if not found.relative:
                faults.append(f"{module}:{found.line} imports {found.target}: write siblings as relative imports")
        elif len(steps) > 1 or (found.name is not None and found.name not in allowed):
            faults.append(f"{module}:{found.line} imports {found.target}: that is no public name")
    for node in ast.walk(ast.parse(source)):
        reached = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == PACKAGE
        if reached and node.attr not in allowed:
            faults.append(f"{module}:{node.lineno} reaches for {PACKAGE}.{node.attr}: that is no public name")
    return faults


def test_adapters_import_public_names_only() -> None:
    faults = [
        fault
        for module, path in graph.ADAPTERS.items()
        for fault in adapter_faults(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
    ]
    assert faults == []


def test_the_package_itself_runs_no_import_of_ours() -> None:
    ours = [found for found in graph.imports_in(PACKAGE) if found.target.split(".")[0] == PACKAGE]
    assert ours and all(found.type_only for found in ours)


def test_no_module_imports_a_heavy_package_by_being_imported() -> None:
    loaded = {
        (module, top)
        for module in graph.EVERY
        for top, found in _third_party(module)
        if top in HEAVY and not found.type_only and not found.in_function
    }
    assert loaded == set()


def test_every_third_party_import_is_a_declared_dependency() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    declaring = ("medical", "export", "completion", "augment", "tensorboard", "wandb", "mlflow")
    lines = setup["options"]["install_requires"] + "\n".join(
        setup["options.extras_require"][extra] for extra in declaring
    )
    declared = {re.split(r"[<>=;\[ ]", line)[0] for line in lines.splitlines() if line}
    importable = {IMPORTED_AS.get(name, name) for name in declared}
    imported = {(module, top) for module in graph.EVERY for top, _ in _third_party(module)}
    # pytest itself imports its plugin, and nothing else does.
    assert {pair for pair in imported if pair[1] not in importable} == {(f"{PACKAGE}.pytest_plugin", "pytest")}


# --- the rules themselves: they must see what they are there to see ---------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("config", "from .training.session import Session", "config may import"),
        ("config", "import roi_progressive.training.session", "config may import"),
        ("config", "from roi_progressive import attach", "config may import"),
        ("config", "def later():\n    from .training import session", "config may import"),
        (
            "config",
            "try:\n    from .training import tap\nexcept ImportError:\n    pass",
            "config may import",
        ),
        ("config", "if TYPE_CHECKING:\n    from .training.session import Session", "config may import"),
        (
            "config",
            "if TYPE_CHECKING:\n    pass\nelse:\n    from .training import tap",
            "config may import",
        ),
        ("method.ggd", "from ..plugins.adapter import Adapter", "method may import"),
        ("data.prepare", "from ..config import Config", "data may import"),
        ("evaluation.table", "from ..data.splits import split", "evaluation may import"),
        ("host.model", "from ..training.session import Session", "host may import"),
        ("training.session", "from ..adapters.junyanz import JunyanzAdapter", "found as plugins"),
        ("training.session", "import roi_progressive", "import the names that are needed"),
        ("training.session", "from .. import newcomer", "no name of the package"),
        ("newcomer.thing", "", "no folder that MAY_IMPORT names"),
    ],
)
def test_a_wrong_import_in_the_core_is_seen(module: str, source: str, word: str) -> None:
    faults = graph.faults_of(source, f"{PACKAGE}.{module}")
    assert len(faults) == 1
    assert word in faults[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training.session", "from .. import __version__\nfrom .guidance import Guidance"),
        ("training.session", "from roi_progressive import Config"),
        ("data.prepare", "from .splits import split\nfrom ..errors import DataError"),
        ("cli.main", "from ..data import prepare\nfrom ..evaluation.table import table"),
        ("config", "import session"),
    ],
)
def test_a_right_import_in_the_core_passes(module: str, source: str) -> None:
    assert graph.faults_of(source, f"{PACKAGE}.{module}") == []


def test_relative_imports_are_resolved_from_a_package_as_python_does() -> None:
    source = "from . import splits\nfrom .. import session"
    for module, is_package in ((f"{PACKAGE}.data", True), (f"{PACKAGE}.data.prepare", False)):
        assert [found.target for found in graph.imports_of(source, module, is_package)] == [f"{PACKAGE}.data", PACKAGE]


def test_a_circle_is_found_and_told_in_order() -> None:
    assert graph.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in (
        ["a", "c", "b", "a"],
        ["b", "a", "c", "b"],
        ["c", "b", "a", "c"],
    )
    assert graph.circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("from roi_progressive import Adapter, hookimpl\nimport roi_progressive\nfrom . import junyanz", 0),
        ("import roi_progressive\nroi_progressive.attach", 0),
        ("from roi_progressive import session", 1),
        ("from roi_progressive.training.session import Session", 1),
        ("from roi_progressive.plugins.patching import Patches", 1),
        ("from ..training.session import Session", 1),
        ("import roi_progressive.training.session", 1),
        ("import roi_progressive\nroi_progressive.training.session.Session", 1),
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
    found = list(graph.imports_of(source, f"{PACKAGE}.evaluation.metrics", False))
    assert [one.target for one in found if not one.type_only and not one.in_function] == ["lpips", "skimage"]


def test_whoever_takes_every_error_says_why() -> None:
    """A handler of any error at all may hide our own mistakes: each has its reason beside it, and none is bare."""
    taking = re.compile(r"^\s*except(\s+(Base)?Exception\b[^:#]*)?:(?P<reason>.*)$", re.MULTILINE)
    silent = [
        f"{path.relative_to(ROOT)}: {found[0].strip()}"
        for folder in ("roi_progressive", "adapters", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for found in taking.finditer(path.read_text(encoding="utf-8"))
        if not found["reason"].strip().startswith("# ")
    ]
    assert silent == []
