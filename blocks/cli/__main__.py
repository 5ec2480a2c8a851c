"""`python -m blocks.cli` is `etl`."""

import sys

from blocks.cli import main

sys.exit(main())
