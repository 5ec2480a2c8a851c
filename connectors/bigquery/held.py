"""A `with` block of BigQuery: the places in results last. Transactions and temporary tables are those of a script."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from blocks.base.errors import UnsupportedError
from blocks.warehouses.held import HeldSession
from blocks.warehouses.sql import session_words
from connectors.bigquery.dialect import LITERALS
from connectors.bigquery.errors import translated
from connectors.bigquery.session import BigQuerySession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blocks.warehouses.held import Rows


class BigQueryHeldSession(BigQuerySession, HeldSession):
    """Jobs of one caller. Each is on its own, as with prefect-gcp: no connection is there to be lost."""

    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; the service keeps its rows for a day, and hands them out by the page."""
        return _RowsOfJob(iter(self._result(self._query(sql, parameters))), self._dataset.uri())

    def in_transaction(self) -> bool:
        """Tell that none is open."""
        return False

    def is_lost(self) -> bool:
        """Tell that there is nothing to be lost."""
        return False

    def _query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        words = session_words(sql, LITERALS)
        if words.nothing_else or words.opens_transaction:
            raise UnsupportedError(
                f"{words.first} has no effect on BigQuery, where each call is a job of its own. Send what belongs "
                'together as one script: execute("BEGIN TRANSACTION; ...; COMMIT TRANSACTION").'
            )
        return super()._query(sql, parameters)


class _RowsOfJob:
    """The rows of a job."""

    def __init__(self, rows: Iterator[Any], uri: str) -> None:
        self._rows, self._uri = rows, uri

    def take(self, size: int) -> list[Any]:
        """Return the next rows."""
        with translated(f"read rows from {self._uri}"):
            return [tuple(row.values()) for row in itertools.islice(self._rows, size)]
