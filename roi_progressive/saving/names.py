"""What data sets and runs call the two domains, the directions between them and the splits.

These words are the names of folders (``trainA``, ``test/A2B``), keys of what is saved and choices of the command line.
Every room uses the same ones, so they stand at the bottom, with the files that bear them.
"""

from __future__ import annotations

from dataclasses import dataclass

DOMAINS = ("A", "B")
DIRECTIONS = ("A2B", "B2A")
REVERSE = {"A2B": "B2A", "B2A": "A2B"}
"""The direction that leads back."""
SPLITS = ("train", "val", "test")


def source_of(direction: str) -> str:
    """The domain that a direction starts from.

    Example:
        >>> source_of("A2B"), target_of("A2B")
        ('A', 'B')
    """
    return direction[0]


def target_of(direction: str) -> str:
    """The domain that a direction leads to."""
    return direction[2]


@dataclass(frozen=True)
class Domains:
    """What the user calls the domains A and B; for titles and legends, never for the names of files.

    Args:
        a: The name of domain A.
        b: The name of domain B.

    Example:
        >>> Domains().title("A2B")
        'CT → MR'
        >>> Domains("T1", "FLAIR").title("B2A")
        'FLAIR → T1'
    """

    a: str = "CT"
    b: str = "MR"

    def name(self, domain: str) -> str:
        """The name of ``A`` or of ``B``."""
        return self.a if domain == DOMAINS[0] else self.b

    def title(self, direction: str) -> str:
        """A direction by the names of its domains."""
        return f"{self.name(source_of(direction))} → {self.name(target_of(direction))}"


CT_AND_MR = Domains()
"""What the domains are called unless their user names them."""
