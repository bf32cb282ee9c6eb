"""Whether patients differ by more than chance: the signed rank test, corrected for how many tests there are."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

MIN_PATIENTS = 2
FEW_PATIENTS = 10
"""Below, the bootstrap's intervals are too narrow, and the signed rank test sees large differences only."""

_Test = TypeVar("_Test", bound=Hashable)


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Wilcoxon's signed rank test (Wilcoxon 1945), two-sided, by SciPy: exact where it can be.

    Args:
        differences: One a patient; those of 0 are left out, as Wilcoxon did.

    Returns:
        The probability of ranks as one-sided as these where both arms are alike; ``None`` where fewer than two
        patients differ at all.

    Example:
        >>> signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # of 64 choices of signs two are so one-sided
        0.03125
    """
    different = [difference for difference in differences if difference != 0.0]
    if len(different) < MIN_PATIENTS:
        return None
    wilcoxon: Any = importlib.import_module("scipy.stats").wilcoxon
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the sample is small: the table says so
        return float(wilcoxon(different).pvalue)


def holm(p_values: Mapping[_Test, float]) -> dict[_Test, float]:
    """Holm's correction (Holm 1979): the chance of a single false alarm among all tests stays below the level.

    Args:
        p_values: By test.

    Returns:
        Corrected, in the same order: each at or below 0.05 is significant at that level, whatever the others are.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    corrected: dict[_Test, float] = {}
    largest = 0.0
    for place, test in enumerate(sorted(p_values, key=lambda test: p_values[test])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[test]))
        corrected[test] = largest
    return {test: corrected[test] for test in p_values}
