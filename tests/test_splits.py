"""Patients are parted once and for all, whatever the order they come in."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roi_progressive.data.splits import (
    SPLITS,
    checked_split,
    read_split_file,
    split_by_modality,
    split_counts,
    split_patients,
)
from roi_progressive.errors import DataError

PATIENTS = st.sets(st.text("abcdef0123", min_size=1, max_size=6), max_size=60)
SHARES = st.tuples(*[st.integers(0, 20)] * 3).filter(any)


@given(PATIENTS, SHARES, st.integers(0, 1000))
def test_every_patient_is_in_exactly_one_part_and_parts_have_their_size(patients, shares, seed):
    parts = split_patients(patients, shares, seed)
    assert set(parts) == patients
    counts = tuple(list(parts.values()).count(split) for split in SPLITS)
    assert counts == split_counts(len(patients), shares)


@given(PATIENTS, SHARES, st.integers(0, 1000), st.randoms())
def test_order_and_repeats_of_the_patients_do_not_matter(patients, shares, seed, rng):
    shuffled = [*patients, *patients]
    rng.shuffle(shuffled)
    assert split_patients(shuffled, shares, seed) == split_patients(sorted(patients), shares, seed)


@given(st.integers(0, 500), SHARES)
def test_counts_are_the_exact_shares_rounded_by_largest_remainder(total, shares):
    counts = split_counts(total, shares)
    exact = [Fraction(total * share, sum(shares)) for share in shares]
    assert sum(counts) == total
    assert all(abs(count - value) < 1 for count, value in zip(counts, exact, strict=True))
    rounded_up = [value - count for count, value in zip(counts, exact, strict=True) if count > value]
    rounded_down = [value - count for count, value in zip(counts, exact, strict=True) if count <= value]
    # Whoever was given the extra patient had at least as large a remainder as those who were not.
    assert all(1 + up >= down for up in rounded_up for down in rounded_down)


def test_six_two_two_of_twenty_patients_is_twelve_four_four():
    assert split_counts(20, (0.6, 0.2, 0.2)) == (12, 4, 4)
    assert split_counts(20, (6, 2, 2)) == (12, 4, 4)
    assert split_counts(20, (17, 1, 2)) == (17, 1, 2)
    assert split_counts(5, (0.6, 0.2, 0.2)) == (3, 1, 1)


def test_train_is_served_first_where_patients_are_few():
    assert [split_counts(n, (0.6, 0.2, 0.2)) for n in (0, 1, 2)] == [(0, 0, 0), (1, 0, 0), (1, 1, 0)]


def test_seeds_give_different_splits():
    patients = [f"p{i}" for i in range(30)]
    assert len({tuple(split_patients(patients, (0.6, 0.2, 0.2), seed).items()) for seed in range(20)}) == 20


def test_splitting_leaves_the_global_random_stream_alone():
    random.seed(1)
    before = random.getstate()
    split_patients(["a", "b", "c"], (0.6, 0.2, 0.2), 0)
    assert random.getstate() == before


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0, 0, 0), (1, -1, 1), (1, float("inf"), 1), ("6", "2", "2")])
def test_shares_that_are_none_are_refused_in_one_line(shares):
    with pytest.raises(DataError, match="`split`") as caught:
        split_patients(["a"], shares, 0)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 50))
def test_the_only_patient_of_a_modality_is_trained_on(seed):
    modalities = {"ct1": ["CT"], "ct2": ["CT"], "ct3": ["CT"], "ct4": ["CT"], "ct5": ["CT"], "mr": ["MR"]}
    assert split_by_modality(modalities, (0.6, 0.2, 0.2), seed)["mr"] == "train"


@given(PATIENTS, st.integers(0, 100))
def test_patients_with_the_same_modalities_are_split_as_one_group(patients, seed):
    both = {patient: ["MR", "CT"] for patient in patients}
    assert split_by_modality(both, (0.6, 0.2, 0.2), seed) == split_patients(patients, (0.6, 0.2, 0.2), seed)


def test_a_given_split_is_taken_over():
    given_split = [("a", "train"), ("a", "train"), ("b", "test"), ("c", "val")]
    assert checked_split(given_split, ["b", "a"]) == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        ([("a", "train"), ("a", "test")], "'a' is in train and in test"),
        ([("a", "training")], "'training'"),
        ([("b", "val")], "'a'"),
    ],
)
def test_a_given_split_must_be_whole_and_unambiguous(assignments, words):
    with pytest.raises(DataError, match=words):
        checked_split(assignments, ["a"])


def test_a_split_file_is_read_with_its_other_columns_left_out(tmp_path):
    (tmp_path / "split.csv").write_text("age,patient,split\n7,b,test\n\n,a , train\n,b,test\n", encoding="utf-8-sig")
    assert read_split_file(tmp_path / "split.csv") == {"b": "test", "a": "train"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patient,split\na,train\nb,val\na,test\n", "'a' is in train and in test"),
        ("patient,split\na,training\n", "'training'"),
        ("patient,split\na\n", "''"),
        ("patient,part\na,train\n", "columns patient and split.*has patient, part"),
        ("patient,split\n", "no row"),
        ("", "is empty"),
    ],
)
def test_a_split_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "split.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        read_split_file(tmp_path / "split.csv")
    assert "\n" not in str(caught.value)


def test_a_split_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"`split_file`.*nowhere\.csv"):
        read_split_file(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"`split_file`.*UTF-8"):
        read_split_file(tmp_path / "binary.csv")
