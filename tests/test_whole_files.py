"""Files appear whole, together, or not at all; what was in their place stays until then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roi_progressive.errors import DataError
from roi_progressive.saving import whole_files
from roi_progressive.saving.whole_files import writing, written_whole


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """One where something lies, and one where nothing does."""
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    return [tmp_path / "a.txt", tmp_path / "b.txt"]


def test_all_files_take_their_places_at_the_end(places: list[Path], tmp_path: Path) -> None:
    with written_whole(*places) as asides:
        for aside in asides:
            aside.write_text("new", encoding="utf-8")
            assert aside.parent == tmp_path, "a rename is atomic only within one folder"
        assert content(tmp_path) == {"a.txt": "old", **{aside.name: "new" for aside in asides}}
    assert content(tmp_path) == {"a.txt": "new", "b.txt": "new"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_none_does_where_one_cannot_be_written(places: list[Path], tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), written_whole(*places) as (first, _):
        first.write_text("new", encoding="utf-8")
        raise error
    assert content(tmp_path) == {"a.txt": "old"}


def test_a_file_that_was_not_written_is_an_error_and_changes_nothing(places: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(*places) as (first, _):
        first.write_text("new", encoding="utf-8")
    assert content(tmp_path) == {"a.txt": "old"}


def test_the_bytes_of_all_are_on_the_disk_before_any_name_says_so(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(whole_files.os, name, lambda *a, name=name, real=real: calls.append(name) or real(*a))
    with written_whole(*places) as asides:
        for aside in asides:
            aside.write_text("new", encoding="utf-8")
    assert calls == ["fsync", "fsync", "replace", "replace"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    with written_whole(tmp_path / "x" / "y" / "a.txt") as (aside,):
        aside.write_text("new", encoding="utf-8")
    assert content(tmp_path / "x" / "y") == {"a.txt": "new"}


def test_what_the_system_refuses_is_one_line_with_the_path_and_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(DataError) as caught, writing(path):
        raise OSError(28, "No space left on device", "somewhere else")
    assert str(caught.value) == (
        f"`out` must be a folder that can be written; {str(path)!r} cannot: No space left on device; "
        f"free the space or choose another"
    )


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), writing(Path("x")):
        raise ZeroDivisionError
