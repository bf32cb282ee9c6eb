"""The packages of the extra ``medical``, imported where a scan is read and not before."""

from __future__ import annotations

from typing import Any

from ..errors import DataError


def simpleitk() -> Any:
    """The SimpleITK module.

    Raises:
        DataError: It is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise DataError(_lacking("volumes", "SimpleITK")) from error
    return SimpleITK


def pydicom() -> Any:
    """The pydicom module.

    Raises:
        DataError: It is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DataError(_lacking("DICOM contours", "pydicom")) from error
    return pydicom


def _lacking(what: str, package: str) -> str:
    return f'reading {what} needs `{package}`, which is not installed; run: pip install "roi-progressive[medical]"'
