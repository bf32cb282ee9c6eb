"""CONTRIBUTING.md and SECURITY.md name what is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from roi_progressive import config
from roi_progressive.cli.parser import parser
from roi_progressive.evaluation import metrics
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
    written_by_us = {"roi.toml", "table.md", "report.md", "adapters/NAME.py", "tests/adapters/test_NAME.py"}
    missing = [name for name in named - written_by_us if not ((ROOT / name).exists() or (PACKAGE / name).exists())]
    assert missing == []


def _import_graph() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_graph", Path(__file__).with_name("import_graph.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["import_graph"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_house_is_the_one_that_the_command_prints() -> None:
    drawn = CONTRIBUTING.split("```text\n")[1].split("\n```")[0]
    assert drawn == _import_graph().picture()


def test_every_folder_of_the_house_is_in_the_table_and_no_other() -> None:
    table = CONTRIBUTING.split("| folder | what happens there |")[1].split("\n\n")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name.rstrip("/") for cell in first_cells for name in re.findall(r"`([\w.]+/?)`", cell)}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    folders |= {"adapters"}  # beside the package; a checkout without symbolic links has no folder of theirs within it
    assert named == folders | {"config.py", "setting_checks.py", "errors.py"}


def test_every_name_that_the_recipes_name_exists() -> None:
    for name, place in (
        ("ROI_MODES", config),
        ("ADVERSARIAL_LOSSES", config),
        ("METRICS", metrics),
        ("GeneratorObjective", objective),
    ):
        assert f"`{name}" in CONTRIBUTING
        assert hasattr(place, name)


def test_every_printed_command_of_ours_parses() -> None:
    for block in re.findall(r"```console\n(.*?)```", CONTRIBUTING, flags=re.DOTALL):
        for line in block.splitlines():
            command = shlex.split(line.split("&&")[0])
            if not command:
                continue  # the indentation of a block's last line
            if command[:2] == ["python", "-m"]:
                assert re.search(rf"^\s+{command[2]}\b", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
            elif command[0] == "roi-progressive":
                parser().parse_args(command[1:])
            elif command[0] in ("python", "bash"):
                assert (ROOT / command[1]).is_file()
            else:
                assert command[0] in ("pip", "pytest", "mkdocs") or command[0].startswith("ROI_PROGRESSIVE_")
