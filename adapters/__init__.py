"""One module a host; installed as ``roi_progressive.adapters``, found as plugins, never imported by the core.

``DialectAdapter`` is the base for adapters of your own to code in the junyanz dialect.
"""

from .dialect import DialectAdapter

__all__ = ["DialectAdapter"]
