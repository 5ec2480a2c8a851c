"""Importing this proves that `blocks` and `connectors` are ours: each of the two packages begins with it."""

from etl_blocks.hiding import PACKAGES, require_ours

require_ours(*PACKAGES)
