"""Which regions a data set has, by its manifest or, without one, by its folders of masks."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..saving.records import entry, fault_of, of_kind, read_json


def regions_of(root: Path) -> list[str]:
    """The regions that a data set names in its manifest or, without one, has mask folders of.

    Raises:
        DataError: The manifest cannot be read, or is not as it was written.
    """
    manifest = root / "manifest.json"
    try:
        described = of_kind(read_json(manifest), "its content", dict) if manifest.exists() else {}
        if "regions" in described:
            return [str(name) for name in entry(described, "regions", list)]
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} must be a data set's manifest; {fault_of(error)}; prepare it anew") from error
    # The manifest of another program, or none.
    folders = [path.name for split in ("train", "test") for path in root.glob(f"{split}A_*") if path.is_dir()]
    return sorted({name.partition("A_")[2] for name in folders})


def default_region(root: Path) -> str | None:
    """``tumor`` where the data have it, otherwise the last region their manifest names; ``None`` where it names none.

    Raises:
        DataError: The data have no region although no manifest says so, or their manifest is not as it was written.
    """
    regions = regions_of(root)
    if not regions and _says_no_regions(root):
        return None
    if not regions:
        raise DataError(
            f"`data` must have a region; {str(root)!r} has no mask folder such as trainA_tumor; "
            f"prepare masks, or train with --no-regions"
        )
    return "tumor" if "tumor" in regions else regions[-1]


def _says_no_regions(root: Path) -> bool:
    try:
        return bool(read_json(root / "manifest.json")["regions"] == [])
    except (OSError, ValueError, KeyError, TypeError):
        return False


ORGAN = "liver"
"""What a region ``tumor`` lies in, where the data have it."""


def organ_of(root: Path, region: str | None) -> str | None:
    """The region that another one lies in and that its contrast is measured against; ``None`` where there is none.

    Raises:
        DataError: The manifest cannot be read, or is not as it was written.
    """
    return ORGAN if region == "tumor" and ORGAN in regions_of(root) else None
