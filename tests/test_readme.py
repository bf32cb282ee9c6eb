"""The README: its commands run as printed, and what it leads to is there, also from a package index."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest

from roi_progressive.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTENED = ["--epochs", "4", "--out", "demo"]
"""What the demo is shortened by, so that it runs in seconds; everything printed stays as it is."""


def _repository() -> str:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["metadata"]["url"]


REPOSITORY = _repository()
PICTURES = f"{REPOSITORY.replace('https://github.com/', 'https://raw.githubusercontent.com/')}/main/"
FILES = f"{REPOSITORY}/blob/main/"


def commands() -> list[list[str]]:
    lines = "".join(re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)).splitlines()
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def test_the_two_set_up_commands_are_printed() -> None:
    assert "pip install . && roi-progressive demo\n" in README
    assert 'pip install ".[test]" && pytest\n' in README


def test_every_printed_command_is_one_that_is_tested_here() -> None:
    assert commands() == [
        ["pip", "install", "."],
        ["roi-progressive", "demo"],
        ["pip", "install", ".[test]"],
        ["pytest"],
    ]


def test_the_continuous_integration_runs_the_printed_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'pip" install --quiet ".[test]"' in script
    assert '"$bin/pytest"' in script


def test_the_printed_demo_command_makes_what_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = [command[1:] for command in commands() if command[0] == "roi-progressive"]
    assert main([*command, *SHORTENED]) == 0
    for name in ("report.md", "metrics.json", "figure.png", "curves.png"):
        assert f"`{name}`" in README or f"/{name}`" in README
        assert (tmp_path / "demo" / name).stat().st_size > 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[0].startswith("device: ") and len(printed) == 6


def test_the_two_added_lines_are_those_of_the_example() -> None:
    (difference,) = re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL)
    added = [line[1:].strip() for line in difference.splitlines() if line.startswith("+")]
    example = (ROOT / "examples" / "train.py").read_text(encoding="utf-8")
    assert len(added) == 3 and [line for line in added if line not in example] == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_every_link_shows_on_a_package_index_and_leads_to_a_file(link: str) -> None:
    """An index has no files beside the text: only an address in full leads anywhere, or is seen as a picture."""
    start = PICTURES if link.endswith(".png") else FILES
    assert link.startswith(start), f"{link}: a picture begins with {PICTURES}, a file with {FILES}"
    assert (ROOT / link.removeprefix(start)).is_file()


def test_every_page_of_the_documentation_can_be_reached() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/index.md", "docs/api.md"}
    assert pages <= {link.removeprefix(FILES) for link in re.findall(r"\]\(([^)]+)\)", README)}


def test_it_is_a_page_and_a_half() -> None:
    assert len(README.splitlines()) <= 100


def test_every_file_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:examples|adapters|docs)/[\w./]+|\w+\.(?:md|cff))`", README):
        if name not in ("report.md", "table.md"):  # the demo writes them
            assert (ROOT / name).is_file(), name
