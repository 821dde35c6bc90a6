"""``python -m eval``: a shim. Nothing picklable may live here (see eval/launch.py)."""

import sys

from .launch import main

if __name__ == "__main__":
    sys.exit(main())
