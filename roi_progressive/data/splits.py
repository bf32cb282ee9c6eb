"""Which patient belongs to training, validation or test. Patients are split, never slices."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from ..saving.names import SPLITS
from .csv_table import read_table


def split_counts(total: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    """Share ``total`` patients out by largest remainder; equal remainders favour the earlier part.

    Args:
        total: Number of patients, >= 0.
        fractions: Shares of train, val and test. Only their proportions count, so ``(6, 2, 2)`` is ``(0.6, 0.2, 0.2)``
            and whole numbers that sum to ``total`` are the counts themselves.

    Raises:
        DataError: Not three finite numbers of at least 0, or all are 0.
    """
    shares = tuple(fractions)
    ok = len(shares) == 3 and all(isinstance(s, (int, float)) and 0 <= s < float("inf") for s in shares)
    if not ok or sum(shares) <= 0:
        raise DataError(
            f"`split` must be three numbers of at least 0, for train, val and test; got {fractions!r}; "
            f"write e.g. (0.6, 0.2, 0.2)"
        )
    exact = [total * share / sum(shares) for share in shares]
    # A share that is whole but for rounding must not lose its patient: 0.6 * 5 may be 2.9999999999999996.
    counts = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(3), key=lambda part: (-round(exact[part] - counts[part], 9), part))
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    return counts[0], counts[1], counts[2]


def split_patients(patients: Iterable[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Assign every patient to exactly one of ``train``, ``val`` and ``test``.

    The result depends on the set of patients, the proportions and the seed alone, not on the order or
    on repeats.

    Args:
        patients: Patients' names.
        fractions: Shares of train, val and test, see ``split_counts``.
        seed: Seed of the shuffle.

    Returns:
        Patient to split, in the patients' sorted order. With few patients later parts may be empty.

    Raises:
        DataError: ``fractions`` are not three usable numbers.
    """
    names = sorted(set(patients))
    counts = split_counts(len(names), fractions)
    parts = [part for part, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    random.Random(seed).shuffle(parts)
    return dict(zip(names, parts, strict=True))


def split_by_modality(modalities: Mapping[str, Iterable[str]], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """``split_patients`` within each group of patients that have the same modalities.

    Otherwise the only patient with an MR could fall into the test set and leave nothing to train on.

    Args:
        modalities: Patient to the modalities there are of them.
        fractions: Shares of train, val and test.
        seed: Seed of the shuffle.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for patient, kinds in modalities.items():
        groups.setdefault(tuple(sorted(set(kinds))), []).append(patient)
    assigned: dict[str, str] = {}
    for group in groups.values():
        assigned.update(split_patients(group, fractions, seed))
    return dict(sorted(assigned.items()))


def read_split_file(path: str | Path) -> dict[str, str]:
    """Read a CSV with the columns ``patient`` and ``split`` (train, val or test); others are left unread.

    Returns:
        Patient to split, in the order of the file.

    Raises:
        DataError: The file cannot be read, lacks a column, or puts a patient in two parts or in an unknown one.
    """
    header, rows = read_table("split_file", Path(path))
    if not rows or not {"patient", "split"} <= set(header):
        got = ", ".join(header) if rows else "no row"
        raise DataError(f"`split_file` must have the columns patient and split, and rows; {str(path)!r} has {got}")
    # A row may be shorter than the header; what it lacks is an empty cell.
    tables = [dict(zip(header, [*cells, *[""] * len(header)], strict=False)) for _, cells in rows]
    assignments = [(cells["patient"], cells["split"]) for cells in tables]
    checked_split(assignments, (patient for patient, _ in assignments))
    return dict(assignments)


def checked_split(assignments: Iterable[tuple[str, str]], patients: Iterable[str]) -> dict[str, str]:
    """A given assignment, checked: known parts, nobody in two, nobody forgotten.

    Args:
        assignments: Pairs of patient and split; a pair may repeat.
        patients: Everyone who needs a split; others in ``assignments`` are left out.

    Raises:
        DataError: A split is unknown, a patient is in two, or a patient has none.
    """
    wanted = sorted(set(patients))
    found: dict[str, str] = {}
    for patient, split in assignments:
        if split not in SPLITS:
            raise DataError(f"`split` of patient {patient!r} must be one of {', '.join(SPLITS)}; got {split!r}")
        if found.setdefault(patient, split) != split:
            raise DataError(
                f"`split` must put a patient in one part; {patient!r} is in {found[patient]} and in {split}; keep one"
            )
    lacking = [patient for patient in wanted if patient not in found]
    if lacking:
        raise DataError(
            f"`split` must name every patient; {len(lacking)} of {len(wanted)} have none, the first {lacking[0]!r}; "
            f"add them as train, val or test"
        )
    return {patient: found[patient] for patient in wanted}
