"""``python -m vila_hd.cli``: a shim, no logic."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
