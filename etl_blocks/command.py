"""The `etl` command: `blocks.cli`, once it is certain that it is ours."""

from __future__ import annotations

import sys

from etl_blocks.hiding import PACKAGES, HiddenPackageError, require_ours


def main() -> int:
    """Run `etl`, and return its exit code."""
    try:
        require_ours(*PACKAGES)
    except HiddenPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from blocks.cli import main as etl

    return etl()
