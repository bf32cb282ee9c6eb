"""The recipe for a metric in CONTRIBUTING.md, carried out on a copy of the checkout as it is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEP = re.compile(r"^\d\. (?P<text>.*?)\n\n   ```python\n(?P<code>.*?)   ```\n", flags=re.DOTALL | re.MULTILINE)
TESTS = ("similarity", "metrics", "scoring", "aggregation", "table", "intervals")

SCORE_TWO_SLICES = """
import json
import numpy as np
from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.pairs import ImagePair
from roi_progressive.evaluation.scoring import score
from roi_progressive.evaluation.table import render_csv, render_text

real = np.arange(256.0).reshape(16, 16)
mask = real > 200
pairs = [
    ImagePair(f"p1_{phase}_000.png", "p1", phase, "A2B", None, real, np.abs(real - 3), region)
    for phase, region in (("ART", mask), ("PV", np.zeros_like(mask)))
]
slices = score(pairs)
results = {"model": aggregate(slices)}
print(json.dumps({
    "scores": [scored["scores"] for scored in slices],
    "reasons": [scored["reasons"] for scored in slices],
    "rows": results["model"]["A2B"],
    "text": render_text(results, width=None),
    "csv": render_csv(results),
}))
"""


def steps() -> list[tuple[str, str]]:
    """What each step of the recipe says, and its code."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = contributing.split("\n## A metric\n")[1].split("\n## ")[0]
    return [(found["text"], textwrap.dedent(found["code"])) for found in STEP.finditer(section)]


def carry_out(text: str, code: str, checkout: Path) -> None:
    """Put the code where the step says: at the end of a file, or of a tuple that ends with a file."""
    named = re.search(r"at the end of (?:`(?P<tuple>[A-Z]+)` in )?`(?P<file>[\w/.]+)`", text)
    assert named is not None, f"the step says no place: {text}"
    places = [checkout / named["file"], checkout / "roi_progressive" / named["file"]]
    [path] = [place for place in places if place.is_file()]
    content = path.read_text(encoding="utf-8")
    if named["tuple"] is None:
        content = f"{content}\n\n{code}"
    else:
        before, start, entries = content.partition(f"\n{named['tuple']}: ")
        assert start and entries.count("\n)\n") == 1
        entry = textwrap.indent(code.rstrip("\n"), " " * 4)
        content = before + start + entries.replace("\n)\n", f"\n{entry},\n)\n")
    path.write_text(content, encoding="utf-8")


def run_in(checkout: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the recipe's metric."""
    copy = tmp_path_factory.mktemp("recipe") / "checkout"
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("roi_progressive", "adapters", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=unwanted)
    for file in ("pyproject.toml", "setup.cfg", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, copy / file)
    for text, code in steps():
        carry_out(text, code, copy)
    return copy


@pytest.fixture(scope="module")
def found(checkout: Path) -> dict[str, Any]:
    """What the copy makes of two slices, the second without the region."""
    found: dict[str, Any] = json.loads(run_in(checkout, "-c", SCORE_TWO_SLICES))
    return found


def test_the_recipe_has_a_function_an_entry_and_a_test() -> None:
    assert [code.split("(")[0].split()[-1] for _, code in steps()] == [
        "region_mae",
        "SliceMetric",
        "test_region_mae_is_the_mean_over_the_regions_pixels_by_hand",
    ]


def test_the_metric_is_scored_and_says_where_the_region_is_missing(found: dict[str, Any]) -> None:
    assert found["scores"][0]["region_mae"] == pytest.approx(3.0)
    assert found["scores"][1]["region_mae"] is None
    assert found["reasons"][1]["region_mae"] == "no region in the slice"
    assert found["rows"]["ART"]["region_mae"] == pytest.approx(3.0)
    assert found["rows"]["PV"]["reasons"]["region_mae"] == "no region in the slice"
    assert found["rows"]["mean"]["reasons"]["region_mae"] == "no value for PV: no region in the slice"


def test_the_metric_has_its_column_in_the_table_and_in_csv(found: dict[str, Any]) -> None:
    lines = found["text"].splitlines()
    (header,) = [line for line in lines if "region MAE ↓" in line]
    first = next(line for line in lines if "ART" in line)
    column = header.index("region MAE ↓")
    assert first[column : column + len("region MAE ↓")].strip() == "3.0"
    assert "region_mae,region_mae_low,region_mae_high" in found["csv"].splitlines()[0]


def test_everything_else_passes_as_before(checkout: Path) -> None:
    files = [f"tests/test_{name}.py" for name in TESTS]
    told = run_in(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert "passed" in told and "failed" not in told
