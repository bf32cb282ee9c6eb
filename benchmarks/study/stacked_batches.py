"""The batches of stacked runs that the study on real scans made: which arms, from which seeds."""

from __future__ import annotations

from dataclasses import replace

from .stacked_arms import Judge, Knobs, Pixels, Stack, guided

DISC = Judge("disc", scales=2, context_px=0)
REST = Judge("rest", scales=1, context_px=0)

NUMBERS = {
    "plain": Knobs(),
    "ceiling": Knobs(cycle=0.0, paired_l1=100.0),
    **{f"context {px}": guided(context_px=px) for px in (0, 3, 6, 10)},
    **{f"weight {weight:g}": guided(weight=weight) for weight in (0.5, 2.0, 4.0)},
    **{f"plain, cycle {cycle:g}": Knobs(cycle=cycle) for cycle in (4.0, 20.0)},
    **{f"cycle {cycle:g}": guided(cycle=cycle) for cycle in (4.0, 20.0)},
    "plain, flip": Knobs(flip=True),
    "flip": guided(flip=True),
    "from the start": guided(from_fraction=0.0),
    "late": guided(from_fraction=0.4),
    "mind 1": guided(mind=1.0),
    "mind 5": guided(mind=5.0),
    "region cycle 5": guided(region_cycle=5.0),
    "plain, 40 give both": Knobs(shared=True),
    "40 give both": guided(shared=True),
}
STRUCTURES = {
    "16 channels": guided(channels=16),
    "32 channels": guided(channels=32),
    "1 layer": guided(layers=1),
    "1 scale": guided(scales=1),
    "rate 3": guided(rate=3.0),
    "rate 0.3": guided(rate=0.3),
}
REGULARISERS = {
    "turned": guided(augment="turn"),
    "affine": guided(augment="affine"),
    "grey": guided(augment="grey"),
    "r1 0.1": guided(r1=0.1),
    "r1 1": guided(r1=1.0),
    "matching 1": guided(matching=1.0),
    "matching 5": guided(matching=5.0),
    "no norm, r1 1": guided(r1=1.0, norm=False),
}
NEGATIVES = {
    "placebo": guided(region="shuffled"),
    **{f"disc {weight:g}": guided(replace(DISC, weight=weight)) for weight in (0.5, 1.0, 2.0)},
    "disc 1, radius 4": guided(replace(DISC, radius_px=4.0)),
    "disc 1, flip": guided(DISC, flip=True),
    "disc 1, context 0": guided(DISC, context_px=0),
    **{f"rest {weight:g}": guided(replace(REST, weight=weight)) for weight in (0.5, 1.0)},
    "rest 1, context 3": guided(replace(REST, context_px=3), context_px=3),
}
PIXELS = {
    **{f"segment {weight:g}": guided(Pixels(weight=weight)) for weight in (0.1, 0.5, 2.0)},
    "segment 0.5 alone": Knobs(pixels=(Pixels(weight=0.5),)),
    "segment 0.5 and disc": guided(Pixels(weight=0.5), DISC),
    "segment 0.5 near": guided(Pixels(weight=0.5, inside_only=True)),
    **{f"classes {weight:g}": guided(Pixels("classes", weight=weight)) for weight in (0.1, 0.5, 2.0)},
    "classes 0.5 alone": Knobs(pixels=(Pixels("classes", weight=0.5),)),
}
SEEDS = (101, 102, 103)
TUNING = [
    Stack("numbers", NUMBERS, SEEDS),
    Stack("structures", STRUCTURES, SEEDS),
    Stack("regularisers", REGULARISERS, SEEDS),
    Stack("negatives", NEGATIVES, SEEDS),
    Stack("pixels", PIXELS, SEEDS),
]

TEST_SEEDS = (11, 12, 13, 14)
CLASSES = Pixels("classes", weight=2.0)
TEST = [
    Stack(
        "known",
        {
            "plain": Knobs(),
            "ceiling": NUMBERS["ceiling"],
            "placebo": NEGATIVES["placebo"],
            "context 0": NUMBERS["context 0"],
            "context 6": NUMBERS["context 6"],
            "rate 0.3": STRUCTURES["rate 0.3"],
        },
        TEST_SEEDS,
        test=True,
    ),
    Stack(
        "pixels",
        {
            "segment 0.5": PIXELS["segment 0.5"],
            "segment 0.5 near": PIXELS["segment 0.5 near"],
            "classes 2": PIXELS["classes 2"],
            "classes 2 and rest": guided(CLASSES, REST),
            "classes 2, mind 1": guided(CLASSES, mind=1.0),
        },
        TEST_SEEDS,
        test=True,
    ),
]


def _small(stack: Stack) -> Stack:
    kept = dict(list(stack.arms.items())[:2])
    return replace(stack, arms=kept, seeds=stack.seeds[:1], steps=30)


BATCHES: dict[str, list[Stack]] = {
    "tuning": TUNING,
    "test": TEST,
    "trial": [_small(stack) for stack in TUNING[:2]],
    "trial_of_test": [replace(stack, seeds=stack.seeds[:1], steps=8) for stack in TEST],
}
