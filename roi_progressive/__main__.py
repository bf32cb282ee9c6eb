"""``python -m roi_progressive``: the command ``roi-progressive``."""

import sys

from .cli.main import main

if __name__ == "__main__":  # not where a spawned process imports this file again
    sys.exit(main())
