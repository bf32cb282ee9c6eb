"""An extension of griffe, which reads docstrings: what is headed ``Example:`` is shown as an example, as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(\s*)Example:$", flags=re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Griffe knows the plural alone, and would read ``[0.5]`` in an example's output as a link."""

    def on_instance(self, *, obj: griffe.Object, **rest: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
