"""Our packages have common names, and a file of the user's that has one of them hides ours. Say which file it is.

Python imports the first `blocks` that it finds on `sys.path`: the folder of a script comes before what is installed.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PACKAGES = ("blocks", "connectors")


class HiddenPackageError(ImportError):
    """A file or folder that is not ours stands where Python looks for one of our packages."""


def require_ours(*packages: str) -> None:
    """Check that an import of these packages gives ours, which stand beside this one.

    Raises:
        HiddenPackageError: Something else would be imported in place of one of them.
    """
    for package in packages:
        spec = PathFinder.find_spec(package)  # not importlib's: that one answers with what is imported already
        # No origin: a folder without __init__.py, which hides nothing. No spec: an editable install by a finder.
        if spec is None or spec.origin is None:
            continue
        found = Path(spec.origin)
        if found.resolve() != HERE / package / "__init__.py":
            place = found.parent if found.name == "__init__.py" else found
            raise HiddenPackageError(
                f"{place} hides the package {package!r} of etl-blocks. Rename it, or run this from another folder.",
                name=package,
                path=str(place),
            )
