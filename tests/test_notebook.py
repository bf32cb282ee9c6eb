"""``examples/phantom.ipynb`` runs from its first cell to its last, as it is, and is kept without output."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "phantom.ipynb"


def test_it_is_kept_without_output() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


def test_it_adds_the_two_lines_of_the_readme() -> None:
    text = "".join(
        line for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] for line in cell["source"]
    )
    added = [line.strip() for line in text.splitlines() if line.endswith("# added")]
    assert [re.split(r"[( ]", line.split("session")[1])[0] for line in added] == ["", ".start_epoch"]
    assert "roi_progressive.attach(" in added[0]


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra `docs` is not installed")
    pytest.importorskip("ipykernel", reason="the extra `docs` is not installed")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a kernel shows figures by a backend of its own
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert [output for output in shown if output.get("name") == "stderr"] == []
