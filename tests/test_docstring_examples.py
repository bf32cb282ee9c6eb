"""The examples in docstrings run as printed, and give what they print."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import roi_progressive
from roi_progressive import testing

PACKAGE = Path(roi_progressive.__file__).parent
PROMPT = ">>> "
WITH_AN_EXAMPLE = (
    *("Config", "DiscriminatorBank", "GGDHead", "PatchDiscriminator", "RegionDiscriminator", "StageController"),
    *("UNetGenerator", "ggd_nll", "ggd_variance"),
    *("Adapter", "Patches", "RandomState", "RegionMask", "Session", "Stage", "Translation", "attach"),
    *("checkpoint_name", "testing.ToyHost", "testing.check_adapter", "testing.check_discriminator"),
    *("testing.phantom_batch", "testing.phantom_config"),
)
"""Public names that nobody should have to use without having seen them used; others may have an example too."""


def _examples() -> dict[str, doctest.DocTest]:
    """Every docstring with a prompt, by the dotted name of what it describes."""
    found: dict[str, doctest.DocTest] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if PROMPT in path.read_text(encoding="utf-8"):
            steps = path.relative_to(PACKAGE.parent).with_suffix("").parts
            module = importlib.import_module(".".join(step for step in steps if step != "__init__"))
            tests = doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
            found.update({test.name: test for test in tests if test.examples})
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_gives_what_it_prints(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(EXAMPLES[name])
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "an example leaves no files behind"


@pytest.mark.parametrize("name", WITH_AN_EXAMPLE)
def test_a_name_that_is_much_used_has_an_example(name: str) -> None:
    owner = testing if name.startswith("testing.") else roi_progressive
    value = getattr(owner, name.removeprefix("testing."))
    assert f"{value.__module__}.{value.__qualname__}" in EXAMPLES


@pytest.mark.parametrize("name", [*roi_progressive.__all__, *(f"testing.{name}" for name in testing.__all__)])
def test_what_is_headed_example_is_one_and_the_other_way_round(name: str) -> None:
    owner = testing if name.startswith("testing.") else roi_progressive
    text = getattr(owner, name.removeprefix("testing.")).__doc__ or ""
    assert ("\n    Example:\n" in text) == (PROMPT in text)
