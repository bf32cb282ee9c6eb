"""Text is read in the encoding its reader names: the default differs by machine, and after a library set the locale."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("roi_progressive", "adapters", "examples", "benchmarks", "tests", "docs")

# How many arguments a call has before the one that is its encoding.
TEXT_METHODS = {"write_text": 1, "read_text": 0}
PROCESSES = ("run", "Popen", "check_output", "check_call")


def _unnamed(source: str) -> Iterator[int]:
    """The lines of the calls that read or write text in whatever encoding the machine prefers."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        if "encoding" in named:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        as_text = name in PROCESSES and named.keys() & {"text", "universal_newlines"}
        in_one_go = name in TEXT_METHODS and len(call.args) <= TEXT_METHODS[name]
        constants = [given.value for given in (*call.args, *named.values()) if isinstance(given, ast.Constant)]
        of_text = any(isinstance(mode, str) and re.fullmatch(r"[rwax]\+?t?", mode) for mode in constants)
        # `Image.open`, `Run.open` and `os.open` have no mode; the function `open` reads text where it is given none.
        by_default = isinstance(call.func, ast.Name) and name == "open" and "mode" not in named and len(call.args) == 1
        opened = name in ("open", "fdopen", "NamedTemporaryFile") and (of_text or by_default)
        if as_text or in_one_go or opened:
            yield call.lineno


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_file_and_pipe_names_its_encoding(folder: str) -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in _unnamed(path.read_text(encoding="utf-8"))
    ]
    assert faults == []


@pytest.mark.parametrize(
    "call",
    [
        "path.write_text(text)",
        "path.read_text()",
        "open(path)",
        "open('notes.txt')",
        "open(path, 'w')",
        "path.open('a')",
        "os.fdopen(writer, 'w')",
        "subprocess.run(command, text=True)",
    ],
)
def test_a_call_without_an_encoding_is_found(call: str) -> None:
    assert list(_unnamed(call)) == [1]


@pytest.mark.parametrize(
    "call",
    [
        "path.write_text(text, 'utf-8')",
        "path.read_text('utf-8')",
        "open(path, 'rb')",
        "open(path, encoding='utf-8')",
        "Image.open(path)",
        "subprocess.run(command)",
    ],
)
def test_a_call_that_names_it_or_needs_none_is_left_alone(call: str) -> None:
    assert list(_unnamed(call)) == []
