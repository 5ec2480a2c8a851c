"""`python -m blocks.cli` is `etl`."""

import sys

from blocks.cli import main

if __name__ == "__main__":
    sys.exit(main())
