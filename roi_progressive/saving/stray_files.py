"""Files that other programs leave among images, and that look like images by their names."""

from __future__ import annotations

from pathlib import Path

STRAY_FOLDERS = frozenset({".ipynb_checkpoints", "__MACOSX", "@eaDir"})
"""Copies and previews of what lies beside them: Jupyter's, macOS's in archives, and those of network storage."""


def is_stray(path: Path) -> bool:
    """Whether a file is no image of the user's, whatever its name ends in.

    Example:
        >>> from pathlib import Path
        >>> [is_stray(Path("trainA", name)) for name in ("x.png", "._x.png", "Thumbs.db")]
        [False, True, True]
        >>> is_stray(Path("trainA/.ipynb_checkpoints/x-checkpoint.png"))
        True
    """
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini") or path.parent.name in STRAY_FOLDERS
