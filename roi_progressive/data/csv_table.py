"""Tables that users write, as comma-separated text."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import DataError


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
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except OSError as error:
        raise DataError(f"`{argument}` must be a readable CSV file; got {str(path)!r}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"`{argument}` must be a CSV file in UTF-8; {str(path)!r} is not: {error}") from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise DataError(f"`{argument}` must have a header and rows; {str(path)!r} is empty")
    return rows[0][1], rows[1:]
