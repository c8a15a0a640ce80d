"""``python -m serving``."""

import sys

from serving.command import main

if __name__ == "__main__":
    sys.exit(main())
