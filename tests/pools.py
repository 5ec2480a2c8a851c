"""The work pools that a `prefect.yaml` has for its deployment, the one that is set and those in comments."""

from __future__ import annotations

import re
from typing import Any

import yaml

COMMENTED = re.compile(r"(?m)^    # work_pool:  # type (?P<type>[\w-]+), package (?P<package>[\w-]+)\n(?:    #  .*\n)+")


def uncommented(text: str) -> dict[str, tuple[str, str]]:
    """The same file with each pool of its comments in place of the process pool, and its package, by type."""
    found = {}
    for block in COMMENTED.finditer(text):
        lines = re.sub(r"(?m)^    # ", "    ", block[0])
        found[block["type"]] = (block["package"], re.sub(r"    work_pool:\n      name: production.*\n", lines, text))
    return found


def pool_of(text: str, deployment: str = "production") -> dict[str, Any]:
    """What the file says of the deployment's pool."""
    deployments = yaml.safe_load(text)["deployments"]
    pool: dict[str, Any] = next(each for each in deployments if each["name"] == deployment)["work_pool"]
    return pool
