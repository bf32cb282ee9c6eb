"""What SECURITY.md says: nothing connects to anything, and what a prepared data set tells of where it is from."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from roi_progressive.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TINY = (
    *("--epochs", "1", "--decay-epochs", "0", "--channels", "2", "--depth", "2", "--threads", "1"),
    *("--discriminator-channels", "2", "--discriminator-layers", "1"),
)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another machine, each of which fails."""
    attempts: list[Any] = []

    def refuse(*asked: Any, **_: Any) -> NoReturn:
        attempts.append(asked)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return attempts


def test_training_and_evaluation_connect_to_nothing(
    offline: list[Any], small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(small_data), "--out", run, *TINY]) == 0, capsys.readouterr().err
    assert main(["evaluate", run]) == 0, capsys.readouterr().err
    assert offline == []
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("127.0.0.1", 9))
    assert len(offline) == 1, "otherwise this test would see nothing"


def test_the_manifest_tells_of_a_slices_origin_what_is_said_and_no_more(
    offline: list[Any], write_scans: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_scans(tmp_path / "secret_folder")
    assert main(["prepare", str(table), str(tmp_path / "data"), "--size", "32"]) == 0, capsys.readouterr().err
    text = (tmp_path / "data" / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    assert "secret_folder" not in text and str(tmp_path) not in text
    of_origin = {"patient", "phase", "modality", "source", "index"}
    named = set(re.findall(r"`(\w+)`", SECURITY.split("- `manifest.json` holds")[1].split("\n- ")[0]))
    assert of_origin <= named | {"phase"}
    of_the_picture = {"name", "split", "domain", "spacing_mm", "source_spacing_mm", "square_px"}
    assert set(manifest["slices"][0]) == of_origin | of_the_picture | {"intensity", "region_areas_px"}
    assert {entry["source"] for entry in manifest["slices"]} <= {path.name for path in table.parent.iterdir()}
    assert set(manifest["split"]["patients"]) == {f"p0{n}" for n in range(1, 6)}
    assert offline == []
