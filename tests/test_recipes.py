"""CONTRIBUTING's recipes, carried out on a copy of the tree with a toy, literally as written; then everything passes.

A recipe's steps begin with the file they change, in bold. A test carries them out through ``House``, which remembers
the files, and compares them with the recipe's when all are done.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = (
    ".git",
    ".*_cache",
    ".hypothesis",
    ".venv",
    "venv",
    "__pycache__",
    "build",
    "dist",
    "*.egg-info",
    "shared",
)


class House:
    """A copy of the tree, to be changed by a recipe.

    Args:
        root: An empty folder for it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changed: set[str] = set()
        shutil.copytree(ROOT, root, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)

    def write(self, file: str, text: str) -> None:
        """Write a new file."""
        path = self.root / file
        assert not path.exists(), f"{file} is there already"
        path.write_text(text, encoding="utf-8")
        self.changed.add(file)

    def replace(self, file: str, passage: str, by: str) -> None:
        """Change one passage of a file."""
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert text.count(passage) == 1, f"{passage!r} stands {text.count(passage)} times in {file}"
        path.write_text(text.replace(passage, by), encoding="utf-8")
        self.changed.add(file)

    def insert_after(self, file: str, passage: str, text: str) -> None:
        """Add text behind one passage of a file."""
        self.replace(file, passage, passage + text)

    def install(self) -> Path:
        """Install the copy, offline, into a folder of packages of its own."""
        folder = self.root.with_name(f"{self.root.name}-installed")
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
        self._run(self.root, "pip", "install", *offline, "--target", str(folder), str(self.root))
        return folder

    def passes(self, *tests: str, packages: Path | None = None) -> str:
        """Run tests of the copy, in a process of their own; returns what pytest printed.

        Args:
            tests: Test files, or single tests as ``file::function``.
            packages: Where the tested package is installed; the copy itself by default.
        """
        paths = [str(self.root / test) for test in tests]
        return self._run(packages or self.root, "pytest", "-q", "-p", "no:cacheprovider", *paths)

    def _run(self, packages: Path, module: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root.parent,  # from where `-m` finds nothing of the copy
            env={**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A copy of the tree."""
    return House(tmp_path / "house")


def steps_of_recipe(heading: str, name: str = "") -> dict[str, str]:
    """The steps of a recipe by the file that each changes.

    Args:
        heading: The recipe's, in CONTRIBUTING.md.
        name: What stands for ``NAME``.
    """
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("NAME", name)
    recipe = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    steps = re.split(r"^\d+\. ", recipe, flags=re.MULTILINE)[1:]
    files = [re.match(r"\*\*`([^`]+)`\*\*", step) for step in steps]
    assert files and all(files), f"each step of {heading!r} must begin with its file, in bold"
    return {file[1]: step for file, step in zip(files, steps, strict=True) if file is not None}


# -- an adapter --------------------------------------------------------------------------------------------------------

ADAPTER = '''"""Trainers of one direction, called ``one_way``: CT to MR, without a way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from roi_progressive import Adapter, Config, DomainMasks, GuidedSession, Patches, Translation, hookimpl

NEEDED = ("ct_to_mr", "optimizer", "translate", "train_on")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands trainers that have what a one-way trainer has."""
    return None if lacking(host) else OneWayAdapter(host)


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What a one-way trainer has and this host has not."""
    return {OneWayAdapter.name: lacking(host)}


def lacking(host: Any) -> list[str]:
    return [name for name in NEEDED if not hasattr(host, name)]


class OneWayAdapter(Adapter):
    """One generator on unaligned images."""

    name = "one-way trainer"

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def generators(self) -> Mapping[str, nn.Module]:
        return {"A2B": self._trainer.ct_to_mr}

    def learning_rates(self) -> Mapping[str, float]:
        rate = float(self._trainer.optimizer.param_groups[0]["lr"])
        return {"generator": rate, "discriminator": rate}

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        made = self._trainer
        return (
            Translation("A2B", source=made.ct, fake=made.fake, real=made.mr, masks=masks["A"], real_masks=masks["B"]),
        )

    def install(self, session: GuidedSession, patches: Patches) -> None:
        def train_on(original: Callable[..., Any], batch: Mapping[str, Any]) -> Any:
            session.masks_arrived(batch, batch["A"].device)
            session.step_started()
            try:
                result = original(batch)
            except BaseException:  # also of Ctrl-C: the step is forgotten, and the error goes on
                session.step_abandoned()
                raise
            session.step_finished()
            return result

        def translate(original: Callable[..., Any]) -> Any:
            result = original()
            session.translated()
            return result

        patches.wrap(self._trainer, "train_on", train_on)
        patches.wrap(self._trainer, "translate", translate)
'''
ADAPTER_TEST = '''"""The adapter for one-way trainers, on a trainer of a few weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive import HostNotSupportedError, attach
from roi_progressive.testing import check_adapter, phantom_batch, phantom_config


class Trainer:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.ct_to_mr = nn.Conv2d(1, 1, 3, padding=1)
        self.optimizer = torch.optim.Adam(self.ct_to_mr.parameters(), lr=1e-3)

    def translate(self) -> None:
        self.fake = self.ct_to_mr(self.ct).tanh()

    def train_on(self, batch: Mapping[str, Any]) -> None:
        self.ct, self.mr = batch["A"], batch["B"]
        self.translate()
        self.optimizer.zero_grad()
        (self.fake.mean() - self.mr.mean()).abs().backward()
        self.optimizer.step()


def test_the_adapter_keeps_what_a_session_relies_on() -> None:
    batches = [phantom_batch(seed=seed) for seed in range(3)]
    check_adapter(
        lambda: (Trainer(), batches),
        step=lambda trainer, batch: trainer.train_on(batch),
        config=phantom_config(ggd=None),
    )


def test_an_almost_known_trainer_is_told_what_it_lacks() -> None:
    trainer = Trainer()
    del trainer.optimizer
    with pytest.raises(HostNotSupportedError, match="one-way trainer misses optimizer"):
        attach(trainer, n_epochs=1)
'''
TESTS_OF_ADAPTERS = (
    "tests/test_imports.py",
    "tests/test_packaging.py::test_the_entry_points_name_what_is_there",
    "tests/test_adapter_manual.py",
    "tests/adapters/test_toy_hosts.py::test_each_model_is_understood_by_its_own_adapter_alone",
    "tests/adapters/test_toy_hosts.py::test_an_almost_known_host_is_told_what_each_adapter_missed",
    "tests/test_session.py::test_an_unknown_host_is_told_which_adapters_were_tried",
    "tests/test_session.py::test_an_adapter_of_a_plugin_is_asked_before_ours",
)
"""Those that a further adapter could break: who may import what, entry points, and who recognises whom."""


@pytest.mark.slow
def test_an_adapter_is_added_as_the_recipe_says(house: House) -> None:
    steps = steps_of_recipe("An adapter", "one_way")
    house.write("adapters/one_way.py", ADAPTER)
    line, heading = re.findall(r"`([^`]+)`", steps["setup.cfg"])[1:3]
    # In a source distribution, setuptools has written setup.cfg anew, with other spaces.
    found = re.search(rf"^{re.escape(heading)} *\n", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    house.insert_after("setup.cfg", found[0], f"    {line}\n")
    house.insert_after(
        "docs/hosts.md",
        "| --- | --- | --- | --- | --- | --- |\n",
        "| one-way trainers | yes | in the batch | yes | yes | CT to MR alone |\n",
    )
    house.write("tests/adapters/test_one_way.py", ADAPTER_TEST)
    assert house.changed == set(steps)
    packages = house.install()
    assert "2 passed" in house.passes("tests/adapters/test_one_way.py", packages=packages)
    house.passes(*TESTS_OF_ADAPTERS, packages=packages)
