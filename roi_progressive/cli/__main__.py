"""``python -m roi_progressive.cli``, as ``torchrun -m`` starts it: the command ``roi-progressive``."""

import sys

from .main import main

if __name__ == "__main__":  # not where a spawned process imports this file again
    sys.exit(main())
