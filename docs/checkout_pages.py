"""A hook of MkDocs: pages of the site that lie elsewhere in the checkout, and links that lead there.

A page of ``docs/`` links a file outside as it does in the checkout, ``../examples/roi.toml``. Some of these files are
pages of the site too, in the same folders; any other is shown in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/EFFECT.md", "examples/README.md")
PICTURES = "benchmarks/effect/*.png", "examples/*.png"
LINK = re.compile(r"(?<=\]\()(?![a-z]+://|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside of ``docs/``, under their paths in the checkout."""
    pictures = [path.relative_to(ROOT).as_posix() for pattern in PICTURES for path in ROOT.glob(pattern)]
    for name in (*PAGES, *pictures):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let every link out of ``docs/`` lead to the page that the site has of it, or to the repository."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in PAGES else f"docs/{here}")

    def there(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        anchor = found[2] or ""
        in_site = target.removeprefix("docs/")
        if files.get_file_from_path(in_site) is None or not (ROOT / target).is_file():
            kind = "blob" if (ROOT / target).is_file() else "tree"
            return f"{config.repo_url}/{kind}/main/{target}{anchor}"
        return posixpath.relpath(in_site, posixpath.dirname(here) or ".") + anchor

    return LINK.sub(there, markdown)
