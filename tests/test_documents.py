"""CONTRIBUTING.md and SECURITY.md name what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from roi_progressive import config
from roi_progressive.cli.parser import parser
from roi_progressive.evaluation import aggregation, table
from roi_progressive.training import objective

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "roi_progressive"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|toml|cfg|md)|\.ci/run)`", text))
    assert named or document == "SECURITY.md"
    written_by_us = {"roi.toml", "adapters/NAME.py"}
    missing = [name for name in named - written_by_us if not ((ROOT / name).exists() or (PACKAGE / name).exists())]
    assert missing == []


def test_every_module_in_the_picture_exists_and_the_layers_stand_in_its_order() -> None:
    picture = CONTRIBUTING.split("```text\n")[1].split("```")[0]
    modules = [path.stem for path in PACKAGE.glob("*.py")] + [path.name for path in PACKAGE.iterdir() if path.is_dir()]
    lines = [line for line in picture.splitlines() if re.match(r" [a-z]", line)]
    lines = [line for line in lines if not line.startswith(" adapters/")]
    drawn = [re.findall(r"\b[a-z_]+\b(?=[/\s(])", line[22:] + " ") for line in lines]
    rows = [[name for name in row if name in modules] for row in drawn]
    assert [line for line, row in zip(lines, rows, strict=True) if not row] == [], "rows without a module of ours"
    order = [name for row in rows for name in row]
    assert {"regions", "tap", "objective", "hookspecs", "host", "data", "evaluation", "testing"} <= set(order)
    for above, below in (("session", "guidance"), ("guidance", "plugins"), ("plugins", "tap"), ("tap", "config")):
        assert order.index(above) < order.index(below)


def test_every_name_that_the_recipes_name_exists() -> None:
    for name, place in (
        ("ROI_MODES", config),
        ("ADVERSARIAL_LOSSES", config),
        ("METRICS", aggregation),
        ("_HEADERS", table),
        ("GeneratorObjective", objective),
    ):
        assert f"`{name}" in CONTRIBUTING
        assert hasattr(place, name)


def test_every_printed_command_of_ours_parses() -> None:
    for block in re.findall(r"```console\n(.*?)```", CONTRIBUTING, flags=re.DOTALL):
        for line in block.splitlines():
            command = shlex.split(line.split("&&")[0])
            if command[0] == "roi-progressive":
                parser().parse_args(command[1:])
            elif command[0] in ("python", "bash"):
                assert (ROOT / command[1]).is_file()
            else:
                assert command[0] in ("pip", "pytest") or command[0].startswith("ROI_PROGRESSIVE_")
