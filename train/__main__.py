"""``python -m train``: a shim. Nothing picklable may live here (see train/launch.py)."""

import sys

from .launch import main

if __name__ == "__main__":
    sys.exit(main())
