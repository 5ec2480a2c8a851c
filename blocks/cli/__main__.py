"""Run `etl` as `python -m blocks.cli`."""

import sys

from blocks.cli import main

if __name__ == "__main__":
    sys.exit(main())
