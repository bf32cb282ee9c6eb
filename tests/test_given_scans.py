"""What a user means by a path: a scan, a folder of scans, or a list of them; and what their results are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from roi_progressive.data.given_scans import given_scans
from roi_progressive.errors import DataError


def touched(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


DICOM = bytes(128) + b"DICM" + bytes(20)


def names(paths: list[Path]) -> list[str]:
    found, several = given_scans(paths)
    assert several
    return [scan.name for scan in found]


def test_a_file_or_a_folder_of_dicom_files_is_one_scan(tmp_path: Path) -> None:
    scan = touched(tmp_path / "p01.nii.gz")
    series = touched(tmp_path / "ct" / "0001", DICOM).parent
    for path, name in ((scan, "p01"), (series, "ct"), (tmp_path / "missing.mha", "missing")):
        (found,), several = given_scans([path])
        assert (found.path, found.name, found.modality, several) == (path, name, None, False)


def test_any_other_folder_holds_scans(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.NRRD", "._a.nrrd", "notes.md", "c/0001.dcm", "d/readme.txt"):
        touched(tmp_path / name, DICOM if name.endswith("dcm") else b"x")
    assert names([tmp_path]) == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"or a folder or list of such; .*d' holds none"):
        given_scans([tmp_path / "d"])


def test_a_list_starts_at_its_own_folder_and_may_tell_modalities(tmp_path: Path) -> None:
    table = tmp_path / "lists" / "scans.csv"
    touched(table, b"patient,modality,image,tumor\np1,CT,../p1.nii.gz,m.nii.gz\np1,MR,/elsewhere/p1_mr.mha,\n")
    found, several = given_scans([table])
    assert several and [(scan.name, scan.modality) for scan in found] == [("p1", "CT"), ("p1_mr", "MR")]
    assert [scan.path for scan in found] == [table.parent / ".." / "p1.nii.gz", Path("/elsewhere/p1_mr.mha")]
    lines = touched(tmp_path / "scans.txt", "one.nii\n\n  häufig.nii.gz \n".encode())
    assert names([lines]) == ["one", "häufig"]


def test_scans_called_alike_get_as_many_of_their_folders_as_tell_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "p1" / "ct" / "image", tmp_path / "p2" / "ct" / "image"]
    assert names(paths) == ["p1_ct_image", "p2_ct_image"]
    assert names([tmp_path / "a.nii", tmp_path / "b.nii.gz"]) == ["a", "b"]
    with pytest.raises(DataError, match=r"`scan` must name each scan once; .*a\.nii' comes twice"):
        given_scans([tmp_path / "a.nii", tmp_path / "a.nii"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("scans.csv", b"patient,modality\np1,CT\n", "with a column `scan` or `image`; .* has patient, modality"),
        ("scans.csv", b"scan\n", "at least one scan"),
        ("scans.csv", b"", "is empty"),
        ("scans.txt", b"\n \n", "at least one scan"),
        ("scans.txt", b"\xff\xfe\x00", "must be a list in UTF-8"),
    ],
)
def test_a_list_that_is_none_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        given_scans([touched(tmp_path / name, content)])
    assert "\n" not in str(caught.value)
