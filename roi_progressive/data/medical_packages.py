"""The packages of the extra ``medical``, imported where a scan is read and not before."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import DataError


def simpleitk() -> Any:
    """The SimpleITK module.

    Raises:
        DataError: It is not installed.
    """
    return _imported("SimpleITK", "volumes")


def pydicom() -> Any:
    """The pydicom module.

    Raises:
        DataError: It is not installed.
    """
    return _imported("pydicom", "DICOM files")


def highdicom() -> Any:
    """The highdicom module.

    Raises:
        DataError: It is not installed.
    """
    return _imported("highdicom", "DICOM segmentations")


def _imported(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f'reading {what} needs `{package}`, which is not installed; run: pip install "roi-progressive[medical]"'
        ) from error
