"""Tables that users write, as comma-separated text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..errors import DataError, UnreadableError, parsed


def read_table(argument: str, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file; blanks around cells and empty rows are left out.

    Args:
        argument: Which table, for messages.
        path: The file, in UTF-8.

    Returns:
        The header, and the cells of every further row with its line in the file.

    Raises:
        DataError: The file cannot be read, is no CSV in UTF-8, or is empty.
    """
    try:
        rows = parsed(_rows, path.read_bytes())
    except OSError as error:
        raise DataError(f"`{argument}` must be a readable CSV file; got {str(path)!r}: {error.strerror}") from error
    except UnreadableError as error:
        raise DataError(f"`{argument}` must be a CSV file in UTF-8; {str(path)!r} is not: {error.line}") from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise DataError(f"`{argument}` must have a header and rows; {str(path)!r} is empty")
    return rows[0][1], rows[1:]


def _rows(content: bytes) -> list[tuple[int, list[str]]]:
    """Every row with its line, blanks around its cells left out."""
    if b"\0" in content:  # from Python 3.11 on a reader takes it, and no path may hold one
        raise ValueError(f"line {content[: content.index(0)].count(10) + 1} contains NUL")
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
