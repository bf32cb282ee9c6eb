"""A fingerprint changes in the part that changed, and in no other."""

from __future__ import annotations

import os

import pytest

from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.partial_folder import fingerprint


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "list.csv").write_text("patient,phase\n", encoding="utf-8")
    (tmp_path / "ct.nii").write_bytes(b"1234")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"12")
    return tmp_path


def taken(folder, options=None, version="1"):
    files = [folder / "ct.nii", folder / "series", folder / "lost.nii"]
    return fingerprint(folder / "list.csv", files, options or PrepareOptions(), {"numpy": version})


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


CHANGES = {
    "list": lambda folder: (folder / "list.csv").write_text("patient,phase\np,NC\n", encoding="utf-8"),
    "a size": lambda folder: (folder / "ct.nii").write_bytes(b"123"),
    "a time": lambda folder: os.utime(folder / "ct.nii", (1, 1)),
    "a slice": lambda folder: (folder / "series" / "1.dcm").write_bytes(b"1"),
    "another slice": lambda folder: (folder / "series" / "2.dcm").write_bytes(b"1"),
    "a file found": lambda folder: (folder / "lost.nii").write_bytes(b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_on_disk_is_seen(inputs, change):
    before = taken(inputs)
    CHANGES[change](inputs)
    assert changed(before, taken(inputs)) == {"list" if change == "list" else "files"}


def test_options_and_versions_are_seen_and_the_order_of_steps_is_none(inputs):
    before = taken(inputs)
    assert changed(before, taken(inputs, PrepareOptions(size_px=64))) == {"options"}
    assert changed(before, taken(inputs, PrepareOptions(split_of={"p": "train"}))) == {"options"}
    assert changed(before, taken(inputs, version="2")) == {"versions"}
    assert changed(before, taken(inputs, PrepareOptions(mr_steps=("zscore", "clip")))) == set()


def test_a_relative_path_is_the_same_file(inputs, monkeypatch):
    before = taken(inputs)
    monkeypatch.chdir(inputs)
    assert taken(inputs.relative_to(inputs)) == before
