"""``docs/promises.md`` names tests that are there, and code and tests refer to promises by names that stand in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
PROMISES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
NAMES = [
    "Inert is invisible",
    "Detach leaves no trace",
    "The host's checkpoints stay the host's",
    "Masks follow their image exactly",
    "Never silently idle",
    "A pooled fake keeps its own mask",
    "No region, no change",
    "Stop anywhere, resume without loss",
    "Region terms touch the region only",
    "The gradient is the summed loss's",
    "The GGD loss is right and finite",
    "Loading is safe",
    "A scan is read right or refused",
    "Nothing of the user's is lost",
    "What is handed on holds no image",
]


def functions_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_the_promises_are_these() -> None:
    assert list(PROMISES) == NAMES


@pytest.mark.parametrize("name", PROMISES)
def test_every_promise_names_tests_and_each_of_them_is_there(name: str) -> None:
    named = re.findall(r"^- `(tests/[\w/]+\.py)::(\w+)`$", PROMISES[name], flags=re.MULTILINE)
    assert named, "a promise without a test is a wish"
    assert len(named) == PROMISES[name].count("\n- "), "every line of the list is a test"
    assert [f"{file}::{test}" for file, test in named if test not in functions_in(file)] == []


def test_promises_are_referred_to_by_their_names_not_by_numbers() -> None:
    files = [path for folder in ("roi_progressive", "adapters", "tests") for path in (ROOT / folder).rglob("*.py")]
    numbered = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in files
        if path != Path(__file__).resolve()
        for found in re.findall(r"\bpromises? \d+", path.read_text(encoding="utf-8"))
    ]
    assert numbered == []


def test_the_readme_leads_to_the_promises() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/promises.md)" in readme
