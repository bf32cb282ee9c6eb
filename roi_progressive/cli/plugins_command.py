"""``roi-progressive plugins``: which plugins are installed, and what they do."""

from __future__ import annotations

import argparse
from typing import Any

from .command import add_command, show


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive plugins``."""
    text = "List the installed plugins and the hooks that each implements."
    epilog = (
        "Installed are those under the entry-point group roi_progressive; `attach(..., plugins=[...])` takes more. The "
        "README says what each hook does."
    )
    add_command(commands, "plugins", text, epilog)


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A plugin cannot be loaded.
    """
    from ..plugins import masks
    from ..plugins.manager import Plugins, hook_names

    found = Plugins(defaults=[masks]).installed()
    width = max(map(len, found))
    show("\n".join(f"{name:{width}}  {', '.join(hooks) or 'no hook'}" for name, hooks in sorted(found.items())))
    unused = [name for name in hook_names() if not any(name in hooks for hooks in found.values())]
    show(f"\nno plugin for: {', '.join(unused) or 'none'}")
