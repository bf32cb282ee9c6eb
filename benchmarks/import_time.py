"""What ``import roi_progressive`` adds to ``import torch``.

    python benchmarks/import_time.py [--runs N] [--json FILE] [--quick]

Two fresh interpreters are measured in turn, N times: one imports torch, the other imports torch, then roi_progressive,
and touches ``roi_progressive.attach``, which loads the training side. Printed is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ALONE = "import torch"
WITH_US = "import torch; import roi_progressive; roi_progressive.attach"


def import_seconds(statements: str) -> float:
    """Seconds that a fresh interpreter spends in ``statements``, its own start not counted."""
    code = f"import time; start = time.perf_counter(); {statements}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8")
    return float(done.stdout)


def measure(runs: int) -> dict[str, float | int]:
    """Median seconds of either, measured alternately, and the ratio of the medians."""
    for statements in (ALONE, WITH_US):  # fills the page cache and writes the bytecode
        import_seconds(statements)
    pairs = [(import_seconds(ALONE), import_seconds(WITH_US)) for _ in range(runs)]
    torch_s, with_us_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"runs": runs, "torch_s": torch_s, "with_roi_progressive_s": with_us_s, "ratio": with_us_s / torch_s}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what importing roi_progressive adds to importing torch.")
    parser.add_argument("--runs", type=int, default=7, help="measurements of either kind (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one measurement of either kind")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    figures = measure(1 if arguments.quick else arguments.runs)
    print(
        f"import torch {figures['torch_s']:.3f} s, with roi_progressive {figures['with_roi_progressive_s']:.3f} s, "
        f"ratio {figures['ratio']:.3f} (median of {figures['runs']} runs each)"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
