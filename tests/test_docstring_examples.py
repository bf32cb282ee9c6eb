"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).resolve().parents[1] / "roi_progressive"
MODULES = sorted(
    ".".join(("roi_progressive", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8") and path.name != "__main__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run_as_printed(name: str) -> None:
    torch.manual_seed(0)
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert done.attempted > 0 and done.failed == 0


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("config", "Config"),
        ("method.bank", "DiscriminatorBank"),
        ("method.discriminators", "PatchDiscriminator"),
        ("method.discriminators", "RegionDiscriminator"),
        ("method.generator", "UNetGenerator"),
        ("method.ggd", "GGDHead"),
        ("method.ggd", "ggd_nll"),
        ("method.ggd", "ggd_variance"),
        ("method.stages", "StageController"),
    ],
)
def test_what_people_build_with_has_an_example(module: str, name: str) -> None:
    assert "Example:" in (getattr(importlib.import_module(f"roi_progressive.{module}"), name).__doc__ or "")
