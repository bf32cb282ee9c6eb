"""What data sets and runs call the two domains, the directions between them and the splits.

These words are the names of folders (``trainA``, ``test/A2B``), keys of what is saved and choices of the command line.
Every room uses the same ones, so they stand at the bottom, with the files that bear them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError

DOMAINS = ("A", "B")
DIRECTIONS = ("A2B", "B2A")
REVERSE = {"A2B": "B2A", "B2A": "A2B"}
"""The direction that leads back."""
SPLITS = ("train", "val", "test")
ONE_PHASE = "all"
"""The phase of images that have no contrast phases."""

_NAME = re.compile(r"\w[\w .+-]{0,39}")


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
        a: The name of domain A: up to 40 letters, digits, blanks and ``. + - _``, the first a letter or digit.
        b: The name of domain B, likewise; another, also where capitals are not told apart.

    Raises:
        ConfigError: The names are no such names, or the same.

    Example:
        >>> Domains().title("A2B")
        'CT → MR'
        >>> Domains("T1", "FLAIR").title("B2A")
        'FLAIR → T1'
    """

    a: str = "CT"
    b: str = "MR"

    def __post_init__(self) -> None:
        for name in self.names:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name != name.strip():
                raise ConfigError(
                    f"`domains` must be names of up to 40 letters, digits, blanks and . + - _, the first a letter or "
                    f"digit; got {name!r}; name A and B, e.g. T1 FLAIR"
                )
        if self.a.casefold() == self.b.casefold():
            raise ConfigError(f"`domains` must be two different names; got {self.a!r} and {self.b!r}; rename one")

    @classmethod
    def of(cls, names: Sequence[str]) -> Domains:
        """From the names of A and B, two of them.

        Raises:
            ConfigError: They are not two, or cannot be names.
        """
        if isinstance(names, str) or len(names) != len(DOMAINS):
            raise ConfigError(f"`domains` must be the names of A and B, two of them; got {names!r}; e.g. T1 FLAIR")
        return cls(names[0], names[1])

    @property
    def names(self) -> tuple[str, str]:
        """Of A and of B."""
        return self.a, self.b

    def name(self, domain: str) -> str:
        """The name of ``A`` or of ``B``."""
        return self.a if domain == DOMAINS[0] else self.b

    def title(self, direction: str) -> str:
        """A direction by the names of its domains."""
        return f"{self.name(source_of(direction))} → {self.name(target_of(direction))}"


CT_AND_MR = Domains()
"""What the domains are called unless their user names them."""
