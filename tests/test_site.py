"""The site of ``docs/`` builds without a warning, and every link within it leads to a file and a place in it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
    pytest.skip("the extra `docs` is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class _Page(HTMLParser):
    """What a page refers to, and the anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.references.append(value)


def pages(site: Path) -> Iterator[tuple[Path, _Page]]:
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":  # its addresses are those of a server's root
            yield path, _Page(path.read_text(encoding="utf-8"))


def test_every_page_of_the_folder_is_one_of_the_site(site: Path) -> None:
    names = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert names <= {path.parent.name for path in site.glob("*/index.html")}
    assert (site / "benchmarks" / "EFFECT" / "index.html").is_file() and (site / "examples" / "index.html").is_file()


def test_every_internal_link_of_the_built_site_leads_to_a_file_and_an_anchor(site: Path) -> None:
    anchors = {path: page.anchors for path, page in pages(site)}
    broken = []
    for path, page in pages(site):
        for reference in page.references:
            if reference.startswith(("https://", "http://", "data:", "mailto:")):
                continue
            file, _, anchor = reference.partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in anchors and anchor not in anchors[target]):
                broken.append(f"{path.relative_to(site)}: {reference}")
    assert broken == []


def test_a_file_outside_the_site_is_linked_in_the_repository(site: Path) -> None:
    text = (site / "configuration" / "index.html").read_text(encoding="utf-8")
    assert "/blob/main/examples/roi.toml" in text


def test_the_site_asks_no_other_server_for_anything(site: Path) -> None:
    """No font, script or picture of others: a page that is read in a hospital's network tells nobody."""
    asked = [
        f"{path.relative_to(site)}: {tag}"
        for path in sorted(site.rglob("*.html"))
        for tag in _loaded(path.read_text(encoding="utf-8"))
    ]
    assert asked == []


def _loaded(text: str) -> list[str]:
    """What a browser would fetch from elsewhere: sources, style sheets and preconnections, not links to click on."""
    found: list[str] = []

    class Loaded(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = dict(attrs)
            address = values.get("src") or (values.get("href") if tag == "link" else None) or ""
            if address.startswith(("http://", "https://", "//")) and values.get("rel") != "canonical":
                found.append(address)

    Loaded().feed(text)
    return found
