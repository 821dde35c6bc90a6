"""``python -m train.curate``: a shim. Nothing picklable may live here (see train/curate/command.py)."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
