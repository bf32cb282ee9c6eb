"""The domains, their directions and the splits fit each other, and take the names that a user gives them."""

from __future__ import annotations

from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS, DOMAINS, REVERSE, Domains, source_of, target_of


def test_a_direction_leads_from_one_domain_to_the_other_and_its_reverse_back() -> None:
    assert len(DIRECTIONS) == 2
    for direction in DIRECTIONS:
        assert direction == f"{source_of(direction)}2{target_of(direction)}"
        assert {source_of(direction), target_of(direction)} == set(DOMAINS)
        assert source_of(REVERSE[direction]) == target_of(direction)
        assert REVERSE[REVERSE[direction]] == direction


def test_domains_are_called_ct_and_mr_unless_they_have_other_names() -> None:
    assert [CT_AND_MR.title(direction) for direction in DIRECTIONS] == ["CT → MR", "MR → CT"]
    scans = Domains("T1", "FLAIR")
    assert [scans.name(domain) for domain in DOMAINS] == ["T1", "FLAIR"]
    assert [scans.title(direction) for direction in DIRECTIONS] == ["T1 → FLAIR", "FLAIR → T1"]
