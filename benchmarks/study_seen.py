"""Does what guidance gains on scans reach patients that it was not trained on?

    python benchmarks/study_seen.py OUT

``OUT`` is a finished study of ``study.py --scans``. Half of its training patients gave their CT and half their MR, and
nobody gave both, so that the other modality is an unseen truth of each. Tumour PSNR gained over plain is told three
times: on patients whose source was trained on, on those whose target was, and on those kept for tuning and testing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from run_study import finished
from study.gains import interval
from study.tables import markdown
from study.training import by_patient, kept_epochs, kept_generators

from roi_progressive.evaluation.pairs import label_in_name
from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS, DOMAINS, SPLITS, source_of, target_of

GROUPS = ("source trained on", "target trained on", "neither")
Scores = dict[tuple[str, str], dict[str, float]]
"""Tumour PSNR by patient, by direction and group."""


def scores_of(out: Path, arm: str, seed: int) -> Scores:
    """Those of the last generators of a run."""
    run = out / "runs" / f"{arm}-{seed}"
    made = kept_generators(run, kept_epochs(run)[-1])
    givers = {domain: _patients(out / "data" / f"train{domain}") for domain in DOMAINS}
    scores: Scores = {}
    for direction in DIRECTIONS:
        every = {split: by_patient(made[direction], out / "paired", split, direction) for split in SPLITS}
        for group, domain in zip(GROUPS[:2], (source_of(direction), target_of(direction)), strict=True):
            scores[direction, group] = {p: value for p, value in every["train"].items() if p in givers[domain]}
        scores[direction, GROUPS[2]] = {**every["val"], **every["test"]}
    return scores


def _patients(folder: Path) -> set[str]:
    labels = [label_in_name(path.stem) for path in folder.iterdir()]
    return {label[0] for label in labels if label is not None}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a study on scans")
    out = parser.parse_args().out
    done = {(line["arm"], line["seed"]) for line in finished(out)}
    if not (out / "paired").is_dir() or not any(arm == "plain" for arm, _ in done):
        print(f"study_seen: error: `OUT` must hold a study on scans with runs of plain; got {out}", file=sys.stderr)
        return 2
    found = {(arm, seed): scores_of(out, arm, seed) for arm, seed in sorted(done) if arm != "ceiling"}
    rows = []
    for arm in dict.fromkeys(arm for arm, _ in found if arm != "plain"):
        seeds = [seed for name, seed in found if name == arm and ("plain", seed) in found]
        for direction in DIRECTIONS:
            told = []
            for group in GROUPS:
                pairs = [(found[arm, seed][direction, group], found["plain", seed][direction, group]) for seed in seeds]
                gain = np.array([[ours[p] - plain[p] for p in sorted(plain)] for ours, plain in pairs])
                low, high = interval(gain)
                told.append(f"{gain.mean():+.2f} [{low:+.2f}, {high:+.2f}]")
            rows.append([arm, CT_AND_MR.title(direction), str(len(seeds)), *told])
    print("\n".join(markdown(["arm", "direction", "seeds", *GROUPS], rows, 2)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
