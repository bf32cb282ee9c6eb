"""Records in JSON: any changed bit of one is an error, and those without a checksum are read as they are."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roi_progressive.errors import DataError
from roi_progressive.saving.records import (
    ChangedRecordError,
    append_json,
    from_json,
    read_json,
    read_json_lines,
    to_json,
    write_json,
)
from roi_progressive.saving.written import FOLDER_RECORD, check_files, write_checksums

CONTENT = {"epoch": 3, "losses": {"G_A": 0.25, "D_A": None}, "names": ["p1", "Zoë", 'a "checksum"'], "last": True}
_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
contents = st.dictionaries(st.text().filter(lambda key: key != "checksum"), _plain, max_size=5)
forms = st.fixed_dictionaries({"indent": st.sampled_from([None, 1])})


@given(contents, forms)
def test_what_was_written_is_read_back(content: dict[str, Any], form: dict[str, Any]) -> None:
    assert from_json(to_json(content, **form)) == content


@given(contents, forms, st.data())
def test_a_flipped_bit_is_an_error(content: dict[str, Any], form: dict[str, Any], data: st.DataObject) -> None:
    text = to_json(content, **form).encode()
    position, bit = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 7))
    changed = text[:position] + bytes([text[position] ^ 1 << bit]) + text[position + 1 :]
    with pytest.raises(ValueError):
        from_json(changed)


def test_every_bit_of_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    whole = path.read_bytes()
    assert read_json(path) == CONTENT
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            with pytest.raises(ValueError):
                read_json(path)


def test_the_checksum_is_the_sha_256_of_the_text_with_zeros_in_its_place() -> None:
    text = to_json(CONTENT)
    written = json.loads(text)
    assert list(written) == [*CONTENT, "checksum"]
    blank = text.replace(written["checksum"], "sha256:" + "0" * 64)
    assert written["checksum"] == "sha256:" + hashlib.sha256(blank.encode()).hexdigest()


@pytest.mark.parametrize("content", [CONTENT, {}, [1, 2], "text", 7, None, {"a": "sha256:short"}])
def test_json_without_a_checksum_is_read_as_it_is(content: Any, tmp_path: Path) -> None:
    (tmp_path / "older.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_json(tmp_path / "older.json") == content


def test_who_edits_a_record_is_told_what_to_do_and_can_do_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    edited = {**json.loads(path.read_text(encoding="utf-8")), "epoch": 4}
    path.write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(ChangedRecordError, match=r"\Aits checksum does not match; remove its entry `checksum` if you"):
        read_json(path)
    del edited["checksum"]
    path.write_text(json.dumps(edited), encoding="utf-8")
    assert read_json(path) == {**CONTENT, "epoch": 4}


@pytest.mark.parametrize("content", [{"checksum": 1}, {"a": float("nan")}, {"a": float("inf")}])
def test_what_no_record_can_hold_is_refused_and_writes_nothing(content: dict[str, Any], tmp_path: Path) -> None:
    for write in (write_json, append_json):
        with pytest.raises(ValueError):
            write(tmp_path / "a.json", content)
    assert os.listdir(tmp_path) == []


# -- lines -------------------------------------------------------------------------------------------------------------


def test_lines_are_read_back_in_order_and_a_cut_off_one_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for epoch in (1, 2):
        append_json(path, {"epoch": epoch})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "los')  # its writer was killed
    assert read_json_lines(path) == [{"epoch": 1}, {"epoch": 2}]
    append_json(path, {"epoch": 3})
    assert read_json_lines(path) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]


def test_a_damaged_line_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for epoch in (1, 2):
        append_json(path, {"epoch": epoch})
    path.write_bytes(path.read_bytes().replace(b'"epoch": 1', b'"epoch": 3'))
    with pytest.raises(DataError, match=r"\A[^\n]*line 1 of [^\n]*a\.jsonl' is damaged: its checksum[^\n]+\Z"):
        read_json_lines(path)


def test_lines_of_an_older_version_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n', encoding="utf-8")
    assert read_json_lines(tmp_path / "a.jsonl") == [{"epoch": 1}, {"epoch": 2}]


# -- files of a folder -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.npy"):
        (tmp_path / name).write_bytes(name.encode() * 20)
    write_checksums(tmp_path)
    return tmp_path


def test_files_that_nobody_changed_pass_and_so_do_others(folder: Path) -> None:
    check_files(folder)
    (folder / "a.png").unlink()  # who needs it will miss it
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    check_files(folder)


@pytest.mark.parametrize("name", ["a.png", "b.npy"])
def test_a_changed_file_is_named_in_one_line(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:30] + bytes([whole[30] ^ 1]) + whole[31:])
    with pytest.raises(DataError, match=rf"\A[^\n]*{name} must be as it was written; [^\n]+\Z"):
        check_files(folder)


def test_a_changed_record_is_named_in_one_line(folder: Path) -> None:
    record = folder / FOLDER_RECORD
    record.write_text(record.read_text(encoding="utf-8").replace("a.png", "c.png"), encoding="utf-8")
    with pytest.raises(DataError, match=rf"\A[^\n]*{FOLDER_RECORD} cannot be used: its checksum [^\n]+\Z"):
        check_files(folder)


def test_a_folder_without_a_record_passes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"of an older version")
    check_files(tmp_path)
