"""``python -m llava_compat.data``: a shim, no logic."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
