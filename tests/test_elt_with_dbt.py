"""What `etl new` copies of the data beside the templates."""

from __future__ import annotations

from pathlib import Path

import pytest

import templates
from blocks.cli import main

DATA = Path(templates.__file__).parent / "data"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("template", "data"), [("orders_pipeline", {"source"}), ("elt_with_dbt", {"shop", "shop_dbt"})]
)
def test_a_template_comes_with_its_own_data(tmp_path, template, data):
    """The folders that it names, whole, and no others."""
    assert main(["new", template, str(tmp_path)]) == 0
    assert {path.name for path in (tmp_path / "data").iterdir()} == data
    for name in data:
        assert files(tmp_path / "data" / name) == files(DATA / name)


def test_templates_are_copied_side_by_side(tmp_path):
    """One project may hold several; what is there already is not overwritten."""
    assert main(["new", "orders_pipeline", str(tmp_path)]) == 0
    assert main(["new", "elt_with_dbt", str(tmp_path)]) == 0
    before = files(tmp_path)
    (tmp_path / "elt_with_dbt.py").unlink()
    assert main(["new", "elt_with_dbt", str(tmp_path)]) == 1
    assert files(tmp_path) == before - {"elt_with_dbt.py"}
