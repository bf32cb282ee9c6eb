"""How many patients does guidance take? The table and the figure of runs on gliomas with fewer patients.

    python benchmarks/study_patients.py [RUNS.jsonl] [--figure PATIENTS.png]

``RUNS.jsonl`` holds the lines of ``run_study.py OUT --gliomas FOLDER --patients 5 10 20``, its ``OUT/runs.jsonl``; left
out, those that ``EFFECT.md`` tells of.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from study.glioma_patients import draw_patients, patients_table

from roi_progressive.saving.records import read_json_lines

PUBLISHED = Path(__file__).resolve().parent / "effect" / "glioma_patients.jsonl"


def main() -> int:
    """Print the table, and draw the figure where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, default=PUBLISHED, help="lines of runs (those of EFFECT.md)")
    parser.add_argument("--figure", type=Path, help="where to draw")
    chosen = parser.parse_args()
    lines = read_json_lines(chosen.runs) if chosen.runs.is_file() else []
    table = patients_table(lines)
    if not table:
        print(f"study_patients: error: `RUNS` must hold runs of plain and regions; got {chosen.runs}", file=sys.stderr)
        return 2
    print("\n".join(table))
    if chosen.figure is not None and not draw_patients(chosen.figure, lines):
        print("study_patients: error: a figure takes two numbers of patients; got one", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
