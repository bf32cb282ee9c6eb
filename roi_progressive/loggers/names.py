"""What a curve is called, in whichever program it is looked at."""

from __future__ import annotations

OURS = "roi"
HOST = "host"
VALIDATION = "val"


def curve_name(name: str, group: str = OURS) -> str:
    """The name of a curve: its group, a slash, and the name it has in ``session.losses()`` or in the host's log.

    Args:
        name: Such as ``G_tumor_A2B``; of a host's own term such as ``cycle_A``.
        group: ``roi`` for what is ours, ``host`` for the host's own losses, ``val`` for validations.

    Example:
        >>> curve_name("G_tumor_A2B"), curve_name("cycle_A", HOST)
        ('roi/G_tumor_A2B', 'host/cycle_A')
    """
    return f"{group}/{name}"
