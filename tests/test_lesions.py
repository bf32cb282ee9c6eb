"""Hand-made discs are kept, lost, inverted or invented, and no brightness or contrast of the display changes that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from roi_progressive.errors import ShapeError
from roi_progressive.evaluation.lesions import ALL_UNCLEAR, NO_LESION, audit_lesions, body

SIZE_PX = 72
GROUND = 100.0
PLACES = [(20, 20), (20, 50), (50, 20)]


def disc(y: float, x: float, radius_px: float = 5.0) -> Any:
    ys, xs = np.ogrid[:SIZE_PX, :SIZE_PX]
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius_px**2


def drawn(*lesions: tuple[tuple[int, int], float]) -> Any:
    """A body of grey 100 in the dark, with discs that much brighter."""
    image = np.zeros((SIZE_PX, SIZE_PX))
    image[4:-4, 4:-4] = GROUND
    for place, contrast in lesions:
        image[disc(*place)] += contrast
    return image


def outcomes(real: Any, fake: Any, mask: Any, **more: Any) -> list[str]:
    return [one.outcome for one in audit_lesions(real, fake, mask, **more).lesions]


@pytest.mark.parametrize(
    ("truth", "generated", "outcome"),
    [
        (40, 40, "kept"),
        (40, 20, "kept"),
        (-40, -20, "kept"),
        (40, 90, "kept"),
        (40, 19, "lost"),
        (40, 0, "lost"),
        (40, -19, "lost"),
        (-40, 19, "lost"),
        (40, -20, "inverted"),
        (-40, 60, "inverted"),
        (4, 4, "unclear"),
        (-4, 60, "unclear"),
    ],
)
def test_a_disc_is_what_its_contrast_says(truth: float, generated: float, outcome: str) -> None:
    [lesion] = audit_lesions(drawn((PLACES[0], truth)), drawn((PLACES[0], generated)), disc(*PLACES[0])).lesions
    assert (lesion.outcome, lesion.real, lesion.fake) == (outcome, truth, generated)
    assert lesion.area_px == 81


def test_shares_are_over_the_clear_lesions_of_the_slice() -> None:
    real = drawn((PLACES[0], 40), (PLACES[1], 40), (PLACES[2], 2))
    fake = drawn((PLACES[0], 5), (PLACES[1], -40), (PLACES[2], 40), ((52, 52), 40))
    mask = disc(*PLACES[0]) | disc(*PLACES[1]) | disc(*PLACES[2])
    audit = audit_lesions(real, fake, mask)
    assert [one.outcome for one in audit.lesions] == ["lost", "inverted", "unclear"]
    assert audit.n_clear == 2
    assert [audit.share("lost"), audit.share("inverted"), audit.share("invented")] == [0.5, 0.5, 0.5]
    assert audit.invented == ((52, 52),)


def test_contrast_is_the_lesions_mean_less_that_of_the_pixels_around_it_by_hand() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.integers(0, 256, (2, 24, 24), dtype=np.uint8)
    mask = np.zeros((24, 24), dtype=bool)
    mask[8:12, 9:14] = True
    mask[13, 22] = True  # too small for a lesion, and still no surroundings of one
    organ = np.ones_like(mask)
    organ[:, :6] = False
    lesion = [(y, x) for y in range(24) for x in range(24) if mask[y, x] and x < 20]
    around = []
    for y in range(24):
        for x in range(24):
            distance = min(math.hypot(y - i, x - j) for i, j in lesion)
            if 1 < distance <= 6 and organ[y, x] and not mask[y, x]:
                around.append((y, x))
    [found] = audit_lesions(real, fake, mask, organ).lesions
    for image, contrast in ((real, found.real), (fake, found.fake)):
        mean = [sum(float(image[p]) for p in places) / len(places) for places in (lesion, around)]
        assert contrast == pytest.approx(mean[0] - mean[1], abs=1e-6)


def test_what_touches_only_in_a_corner_is_one_lesion() -> None:
    mask = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
    mask[20:24, 20:24] = mask[24:28, 24:28] = True
    assert [one.area_px for one in audit_lesions(drawn(), drawn(), mask).lesions] == [32]


@pytest.mark.parametrize("place", [(4, 30), (71, 30), (0, 0), (36, 67)])
def test_a_lesion_at_the_border_is_compared_with_what_there_is(place: tuple[int, int]) -> None:
    full = np.full((SIZE_PX, SIZE_PX), GROUND)
    mask = disc(*place)
    real, fake = np.where(mask, 140.0, full), np.where(mask, 60.0, full)
    organ = np.ones_like(mask)
    audit = audit_lesions(real, fake, mask, organ)
    assert [(one.real, one.fake, one.outcome) for one in audit.lesions] == [(40.0, -40.0, "inverted")]
    assert audit.invented == ()


def test_air_around_the_body_is_no_surroundings_and_holes_in_it_are() -> None:
    mask = disc(8, 36) & (drawn() > 0)
    real = np.where(mask, GROUND + 40.0, drawn())
    [lesion] = audit_lesions(real, real, mask).lesions
    assert lesion.real == 40.0
    real[30:40, 30:40] = 0.0
    assert body(real).sum() == (SIZE_PX - 8) ** 2


def test_a_lesion_that_fills_its_organ_is_unclear() -> None:
    mask = disc(*PLACES[0])
    real = drawn((PLACES[0], 40))
    audit = audit_lesions(real, real, mask, mask)
    assert [one.outcome for one in audit.lesions] == ["unclear"] and math.isnan(audit.lesions[0].real)
    assert audit.share("lost") is audit.share("invented") is None and audit.reason == ALL_UNCLEAR


def test_without_a_lesion_there_is_no_share() -> None:
    speck = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
    speck[20, 20:28] = True
    for mask in (speck, np.zeros_like(speck)):
        audit = audit_lesions(drawn(), drawn(((50, 50), 40)), mask)
        assert audit.lesions == audit.invented == () and audit.reason == NO_LESION
        assert audit.share("inverted") is None


@pytest.mark.parametrize(("generated", "n"), [(40, 2), (21, 2), (19, 0), (-40, 0)])
def test_invented_is_what_shows_as_much_contrast_as_half_of_the_real_lesion(generated: float, n: int) -> None:
    real = drawn((PLACES[0], 40))
    fake = drawn((PLACES[0], 40), (PLACES[1], generated), (PLACES[2], generated))
    assert sorted(audit_lesions(real, fake, disc(*PLACES[0])).invented) == [PLACES[1], PLACES[2]][:n]


@pytest.mark.parametrize(("truth", "n"), [(0, 1), (19, 1), (21, 0), (40, 0), (-40, 1)])
def test_what_is_in_the_truth_too_is_not_invented(truth: float, n: int) -> None:
    real, fake = drawn((PLACES[0], 40), (PLACES[1], truth)), drawn((PLACES[0], 40), (PLACES[1], 40))
    assert len(audit_lesions(real, fake, disc(*PLACES[0])).invented) == n


def test_the_largest_clear_lesion_is_the_measure_of_what_is_invented() -> None:
    mask = disc(*PLACES[0]) | disc(*PLACES[1], radius_px=3.0) | disc(*PLACES[2], radius_px=7.0)
    real = drawn((PLACES[0], -40), (PLACES[1], 40))  # the largest is unclear
    for contrast, places in ((-40, ((52, 52),)), (40, ())):
        assert audit_lesions(real, real + drawn(((52, 52), contrast)) - drawn(), mask).invented == places


def test_nothing_outside_the_organ_is_invented() -> None:
    real, fake = drawn((PLACES[0], 40)), drawn((PLACES[0], 40), (PLACES[1], 40))
    organ = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
    organ[:, :40] = True
    assert audit_lesions(real, fake, disc(*PLACES[0]), organ).invented == ()
    assert audit_lesions(real, fake, disc(*PLACES[0]), ~np.zeros_like(organ)).invented == (PLACES[1],)


def test_places_of_invention_are_those_of_a_hand_written_loop() -> None:
    rng = np.random.default_rng(3)
    ys, xs = np.mgrid[:48, :48]
    mask = (ys - 24) ** 2 + (xs - 24) ** 2 <= 9
    organ = (ys - 24) ** 2 + (xs - 22) ** 2 <= 21**2
    real, fake = (100 + sd * gaussian_filter(rng.normal(size=mask.shape), 3) + 30 * mask for sd in (100, 300))
    audit = audit_lesions(real, fake, mask, organ)
    c = audit.lesions[0].real
    radius = math.sqrt(int(mask.sum()) / math.pi)
    away = np.min([np.hypot(ys - y, xs - x) for y, x in np.argwhere(mask)], axis=0) > 6
    field = organ & away
    found = []
    for y in range(48):
        for x in range(48):
            distance = np.hypot(ys - y, xs - x)
            if y - radius < 0 or x - radius < 0 or not field[distance <= radius].all():
                continue
            ring = (distance > radius + 1) & (distance <= radius + 6)
            whole = sum(radius + 1 < math.hypot(i, j) <= radius + 6 for i in range(-20, 21) for j in range(-20, 21))
            if (ring & field).sum() < whole / 2:
                continue
            t, g = (one[distance <= radius].mean() - one[ring & field].mean() for one in (real, fake))
            if g / c >= 0.5 and t / g < 0.5:
                found.append((-g / c, y, x))
    expected: list[tuple[int, int]] = []
    for _, y, x in sorted(found):
        if all(math.hypot(y - i, x - j) > 2 * radius for i, j in expected):
            expected.append((y, x))
    assert len(expected) > 1
    assert list(audit.invented) == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-60, -20, -8, 0, 8, 20, 60]), min_size=4, max_size=4),
    st.lists(st.sampled_from([-60, -20, -8, 0, 8, 20, 60]), min_size=4, max_size=4),
    st.floats(-50, 50),
    st.floats(-50, 50),
    st.floats(0.01, 100),
    st.integers(0, 9),
)
def test_neither_a_constant_nor_a_gain_changes_an_outcome(
    truth: list[int], generated: list[int], first: float, second: float, gain: float, seed: int
) -> None:
    assume(any(truth[:3]))
    noise = np.random.default_rng(seed).normal(0, 3, (2, SIZE_PX, SIZE_PX))
    places = [*PLACES, (52, 52)]
    real = drawn(*zip(places, truth, strict=True)) + noise[0]
    fake = drawn(*zip(places, generated, strict=True)) + noise[1]
    mask = disc(*PLACES[0]) | disc(*PLACES[1]) | disc(*PLACES[2])
    before = audit_lesions(real, fake, mask)
    after = audit_lesions(gain * real + first, gain * fake + second, mask, min_contrast_grey=gain * 5.0)
    assert [one.outcome for one in after.lesions] == [one.outcome for one in before.lesions]
    assert after.invented == before.invented


def test_arrays_that_do_not_fit_are_refused() -> None:
    image, mask = np.zeros((9, 9)), np.zeros((9, 9), dtype=bool)
    for arguments in ((image, image[1:], mask), (image, image, mask[1:]), (image, image, image)):
        with pytest.raises(ShapeError, match="must be"):
            audit_lesions(*arguments)
    with pytest.raises(ShapeError, match="`organ` must be"):
        audit_lesions(image, image, mask, mask[1:])
