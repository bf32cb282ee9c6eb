"""Which module imports which, read from the source without running it, imports for the type checker included.

    python tests/import_graph.py

prints the folders of the package from the bottom up, what each imports, every arrow that points up and every circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "roi_progressive"

BASE = frozenset({"errors", "setting_checks"})
SIDE = BASE | {"saving", "runtime"}
METHOD = SIDE | {"config", "method"}
STEP = METHOD | {"plugins", "training"}
ALL = STEP | {"check", "data", "evaluation", "host", "loggers", "testing", "runs", "cli"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "setting_checks": frozenset({"errors"}),
    "config": BASE,
    "saving": BASE | {"config"},
    "runtime": BASE | {"config", "saving"},
    "method": METHOD - {"method"},
    "data": SIDE,
    "evaluation": SIDE,
    "host": SIDE | {"method"},
    "plugins": METHOD,
    "training": METHOD | {"plugins"},
    "loggers": METHOD | {"plugins"},
    "check": STEP,
    "testing": STEP | {"data"},
    "runs": ALL - {"runs", "cli", "testing"},
    "cli": ALL - {"cli", "testing"},
    "pytest_plugin": frozenset({"config", "testing"}),
    "__main__": frozenset({"cli"}),
}
"""What a folder, or a module that stands beside the folders, may import besides its own files; from the bottom up."""


@dataclass(frozen=True)
class Import:
    """One imported name.

    Args:
        target: The module it comes from, dotted and absolute.
        name: What is taken from the module; ``None`` for the module itself.
        line: Where it stands.
        relative: Whether it is written with leading dots.
        type_only: Whether it stands under ``if TYPE_CHECKING``.
        in_function: Whether it runs when a function is called, not when the module is imported.
    """

    target: str
    name: str | None
    line: int
    relative: bool
    type_only: bool
    in_function: bool


def imports_of(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Every import of a module, from its source."""
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


def modules_under(folder: Path, prefix: str) -> dict[str, Path]:
    """Dotted name of every module in a folder, and its file; the linked adapters are left to their own folder."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        steps = path.relative_to(folder).with_suffix("").parts
        if not (folder.name == PACKAGE and steps[0] == "adapters"):
            found[".".join((prefix, *(step for step in steps if step != "__init__")))] = path
    return found


CORE = modules_under(ROOT / PACKAGE, PACKAGE)
ADAPTERS = modules_under(ROOT / "adapters", f"{PACKAGE}.adapters")
EVERY = {**CORE, **ADAPTERS}


def imports_in(module: str) -> list[Import]:
    """Every import of a module of the checkout."""
    path = EVERY[module]
    return list(imports_of(path.read_text(encoding="utf-8"), module, path.stem == "__init__"))


def _public_names() -> dict[str, str]:
    """Public name and the module that defines it, read from the package's ``__init__``."""
    return {found.name: found.target for found in imports_in(PACKAGE) if found.type_only and found.name is not None}


PUBLIC = _public_names()


def module_reached(found: Import) -> str | None:
    """The module of ours that an import reaches; ``None`` where it is not ours, or the package itself."""
    if found.target.split(".")[0] != PACKAGE:
        return None
    if found.name is not None and f"{found.target}.{found.name}" in EVERY:
        return f"{found.target}.{found.name}"
    if found.target == PACKAGE:
        return PUBLIC.get(found.name or "")
    return found.target


def folder_of(module: str) -> str:
    """The folder of a module, or the module itself where it stands beside the folders."""
    return module.split(".")[1]


def faults_of(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one core module, as lines to read."""
    here, faults = folder_of(module), []
    if here not in MAY_IMPORT:
        return [f"{module} lies in no folder that MAY_IMPORT names; add the folder, or move the module"]
    for found in imports_of(source, module, is_package):
        if found.target == PACKAGE and found.name is None:
            faults.append(f"{module}:{found.line} imports {PACKAGE}: import the names that are needed")
            continue
        reached = module_reached(found)
        if found.target == PACKAGE and reached is None and not (found.name or "").startswith("__"):
            faults.append(f"{module}:{found.line} imports {found.name}, which is no name of the package")
        if reached is None:
            continue
        there = folder_of(reached)
        if there == "adapters":
            faults.append(f"{module}:{found.line} imports {reached}: adapters are found as plugins, never imported")
        elif there != here and there not in MAY_IMPORT[here]:
            allowed = ", ".join(sorted(MAY_IMPORT[here])) or "nothing"
            faults.append(f"{module}:{found.line} imports {reached}: {here} may import {allowed}")
    return faults


def graph() -> dict[str, set[str]]:
    """For every core module the core modules that it imports, those for the type checker included."""
    reached = {module: {module_reached(found) for found in imports_in(module)} for module in CORE if module != PACKAGE}
    # A folder's own names are a door to its modules, not one of them: nothing is defined there.
    return {module: {name for name in names if name in CORE and name != module} for module, names in reached.items()}


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, in order; empty where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def folder_arrows(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between folders."""
    between: dict[str, set[str]] = {name: set() for name in MAY_IMPORT}
    for module, names in arrows.items():
        between[folder_of(module)] |= {folder_of(name) for name in names} - {folder_of(module)}
    return between


def picture() -> str:
    """The folders from the top down, with what each imports: the picture in CONTRIBUTING.md."""
    between, order = folder_arrows(graph()), list(MAY_IMPORT)
    rows = [(name, sorted(between[name], key=order.index, reverse=True)) for name in reversed(order)]
    return "\n".join(f"{name:15}{'→ ' + ' '.join(below) if below else ''}".rstrip() for name, below in rows)


def main() -> int:
    """Print the picture, and what is wrong with it."""
    print(picture())
    faults = [
        line
        for module, path in CORE.items()
        if module != PACKAGE
        for line in faults_of(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
    ]
    found = circle(graph())
    print("\n".join(faults) if faults else "no arrow points up")
    print(f"circle: {' -> '.join(found)}" if found else "no circle")
    return 1 if faults or found else 0


if __name__ == "__main__":
    sys.exit(main())
