"""Windows of a CT by name."""

from __future__ import annotations

CT_WINDOWS = {"soft": (400.0, 40.0), "bone": (1800.0, 400.0), "full": (4095.0, 1023.5)}
"""Width and level, HU: the paper's for the abdomen, bone, and all that 12 bits hold, [-1024, 3071], as SynthRAD takes
it."""
