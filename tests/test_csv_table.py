"""A table as spreadsheets save it, and what is no table."""

from __future__ import annotations

import pytest

from roi_progressive.data.csv_table import read_table
from roi_progressive.errors import DataError


def test_rows_keep_their_line_in_the_file_and_lose_blanks(tmp_path):
    text = 'name, note\r\n\r\n,\r\na,"two\r\nlines, one cell"\r\n b ,\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8-sig"))
    header, rows = read_table("list", tmp_path / "t.csv")
    assert header == ["name", "note"]
    assert rows == [(5, ["a", "two\r\nlines, one cell"]), (6, ["b", ""])]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "readable CSV"), (b"\xff\xfe\x00", "UTF-8"), (b'a\n"open', "UTF-8.*end of data"), (b"\n,\n", "is empty")],
)
def test_what_is_no_table_is_refused_by_its_argument(tmp_path, content, words):
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"`list` must.*{words}"):
        read_table("list", tmp_path / "t.csv")
