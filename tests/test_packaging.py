"""What is installed, and what importing it drags in."""

from __future__ import annotations

import configparser
import fnmatch
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import roi_progressive

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ROOT = Path(roi_progressive.__file__).parents[1]  # site-packages, or the checkout
HEAVY = ("torchvision", "lpips", "pytorch_fid", "matplotlib", "skimage", "SimpleITK")
FORCE_EVERY_NAME = "import roi_progressive\nfor name in roi_progressive.__all__: getattr(roi_progressive, name)\n"


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def _loaded_by(code: str, folder: Path, *path: Path) -> set[str]:
    """The top-level modules, and ours in full, that a fresh interpreter holds after ``code``."""
    show = "import sys; print('LOADED', *sys.modules)"
    search = os.pathsep.join(map(str, (*path, IMPORT_ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split("LOADED")[1].split()
    return {name if name.startswith("roi_progressive") else name.partition(".")[0] for name in names}


# --- the lists in setup.cfg -------------------------------------------------------------------------------------------


def test_the_package_list_is_the_packages_in_the_tree() -> None:
    folders = {path.parent for path in (ROOT / "roi_progressive").rglob("*.py") if "adapters" not in path.parts}
    folders |= {ROOT / "roi_progressive" / path.parent.relative_to(ROOT) for path in (ROOT / "adapters").rglob("*.py")}
    in_tree = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(_lines(_setup()["options"]["packages"])) == in_tree


def test_every_listed_package_has_an_init_file() -> None:
    options = _setup()["options"]
    elsewhere = dict(line.split(" = ") for line in _lines(options["package_dir"]))
    folders = {name: ROOT / elsewhere.get(name, name.replace(".", "/")) for name in _lines(options["packages"])}
    assert [name for name, folder in folders.items() if not (folder / "__init__.py").is_file()] == []


def test_the_adapters_are_mapped_and_linked_to_one_folder() -> None:
    assert _lines(_setup()["options"]["package_dir"]) == ["roi_progressive.adapters = adapters"]
    link = ROOT / "roi_progressive" / "adapters"
    if link.is_symlink():
        assert os.readlink(link) == os.path.join("..", "adapters"), "an absolute link breaks in every other checkout"
        assert link.resolve() == ROOT / "adapters"
    elif link.exists():
        assert link.read_text(encoding="utf-8") == "../adapters", "git's text in the place of a link, and nothing else"
    assert (ROOT / "adapters" / "__init__.py").is_file()


@pytest.mark.parametrize("in_its_place", ["../adapters", None])
def test_without_the_link_the_adapters_are_found_beside_the_package(in_its_place: str | None, tmp_path: Path) -> None:
    """Git writes a text file where links are not allowed; a source distribution has nothing there."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "roi_progressive", checkout / "roi_progressive", symlinks=True, ignore=ignored)
    shutil.copytree(ROOT / "adapters", checkout / "adapters", ignore=ignored)
    (checkout / "roi_progressive" / "adapters").unlink(missing_ok=True)
    if in_its_place is not None:
        (checkout / "roi_progressive" / "adapters").write_text(in_its_place, encoding="utf-8")
    show = "import roi_progressive.adapters.junyanz as a, roi_progressive.adapters as b; print(a.__file__, b.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", show],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(checkout / "adapters" / name) for name in ("junyanz.py", "__init__.py")]


def test_no_folder_beside_the_package_could_shadow_an_installed_one() -> None:
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not (ROOT / "examples" / "__init__.py").exists()
    assert "find" not in _setup()["options"]["packages"]


def test_the_type_marker_is_packaged() -> None:
    assert _setup()["options.package_data"]["roi_progressive"] == "py.typed"
    assert (Path(roi_progressive.__file__).parent / "py.typed").is_file()


def test_the_entry_points_name_what_is_there() -> None:
    points = _setup()["options.entry_points"]
    assert _lines(points["console_scripts"]) == ["roi-progressive = roi_progressive.cli:main"]
    adapters = {path.stem for path in (ROOT / "adapters").glob("*.py") if not path.name.startswith("_")}
    adapters -= {"dialect"}  # the public base of adapters, which understands no host by itself
    assert set(_lines(points["roi_progressive"])) == {f"{name} = roi_progressive.adapters.{name}" for name in adapters}
    assert _lines(points["pytest11"]) == ["roi_progressive = roi_progressive.pytest_plugin"]


def test_the_installed_distribution_says_the_version_of_the_source() -> None:
    """Runs against what is installed; in a bare checkout there is no distribution to ask."""
    distributions = list(importlib.metadata.distributions(name="roi-progressive", path=[str(IMPORT_ROOT)]))
    assert [distribution.version for distribution in distributions] in ([], [roi_progressive.__version__])


def test_the_tools_have_one_version_in_setup_cfg_and_in_the_pre_commit_hooks() -> None:
    pins = dict(re.findall(r"(ruff|mypy)==([\d.]+)", _setup()["options.extras_require"]["dev"]))
    assert set(pins) == {"ruff", "mypy"}
    hooks = re.findall(r"(ruff|mypy)==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {(tool, pins[tool]) for tool, _ in hooks} == set(hooks)


def test_the_changelog_opens_with_the_version_of_the_source() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert roi_progressive.__version__ in versions[:2]


def test_the_address_of_the_project_is_the_same_wherever_it_stands() -> None:
    metadata = _setup()["metadata"]
    named = [line.split(" = ")[1] for line in _lines(metadata["project_urls"])]
    for file in ("README.md", "CITATION.cff", "mkdocs.yml"):
        named += re.findall(r"https://github\.com/[^\s)]+", (ROOT / file).read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [
        address for address in named if address != metadata["url"] and not address.startswith(metadata["url"] + "/")
    ] == []


def test_the_citation_says_the_version_and_licence_of_the_source() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {roi_progressive.__version__}\n" in citation
    assert f"\nlicense: {_setup()['metadata']['license']}\n" in citation


def test_the_citation_names_the_paper_as_the_readme_does() -> None:
    (title,) = re.findall(r"^  title: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert title in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_a_source_distribution_is_told_of_every_file_at_the_top_and_every_folder() -> None:
    """What it holds in the end is compared with the checkout by ``.ci/run``, which builds one."""
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    told = set(re.findall(r"[\w.\-/]+", "\n".join(line for line in manifest.splitlines() if not line.startswith("#"))))
    always = {"MANIFEST.in", "setup.cfg", "PKG-INFO", "roi_progressive"}  # setuptools takes them by itself
    ours = {".ci", ".dockerignore", ".gitignore", ".pre-commit-config.yaml"}
    # What git ignores may lie here too, such as what the README's first command writes.
    ignored = ["shared", *(line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split())]
    here = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    here = {name for name in here if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)}
    assert (here | ours) - always <= told


# --- what an import costs ---------------------------------------------------------------------------------------------


def test_importing_the_package_loads_neither_torch_nor_any_submodule(tmp_path: Path) -> None:
    loaded = _loaded_by("import roi_progressive", tmp_path)
    assert {name for name in loaded if name.startswith("roi_progressive")} == {"roi_progressive"}
    assert loaded.isdisjoint({"torch", "numpy", "PIL", "pluggy", *HEAVY})


@pytest.fixture(scope="module")
def loaded_by_every_name(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return _loaded_by(FORCE_EVERY_NAME, tmp_path_factory.mktemp("elsewhere"))


def test_using_every_public_name_loads_none_of_the_heavy_packages(loaded_by_every_name: set[str]) -> None:
    assert "torch" in loaded_by_every_name, "otherwise this test forced nothing"
    assert loaded_by_every_name.isdisjoint(HEAVY)


def test_using_every_public_name_but_whole_runs_loads_no_adapter_and_no_host(tmp_path: Path) -> None:
    """What stands in ``runs/`` is of the bundled host's runs, and brings them along when it is used."""
    others = "if not roi_progressive._MODULE_OF[name].startswith('runs.'): getattr(roi_progressive, name)"
    loaded = _loaded_by(f"import roi_progressive\nfor name in roi_progressive.__all__:\n    {others}\n", tmp_path)
    assert "roi_progressive.training.session" in loaded, "otherwise this test forced nothing"
    sides = tuple(f"roi_progressive.{name}" for name in ("adapters", "host", "data", "evaluation", "runs", "cli"))
    assert [name for name in sorted(loaded) if name.startswith(sides)] == []


def test_every_public_name_can_be_used_where_torchvision_and_its_kin_are_broken(tmp_path: Path) -> None:
    fakes = tmp_path / "fakes"
    for broken in HEAVY:
        (fakes / broken).mkdir(parents=True)
        (fakes / broken / "__init__.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')\n", encoding="utf-8"
        )
    _loaded_by(FORCE_EVERY_NAME, tmp_path, fakes)
    probe = "try:\n    import {0}\nexcept RuntimeError:\n    pass\nelse:\n    raise SystemExit('{0} is not broken')"
    _loaded_by("\n".join(map(probe.format, HEAVY)), tmp_path, fakes)
