"""Scan: a re-openable stream of Arrow record batches. A retry opens it again from the start."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import weakref
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from blocks.arrow.casts import cast_batch
from blocks.arrow.frames import from_columns, table_of
from blocks.arrow.parts import Division, Partitions, divided, staged_of
from blocks.arrow.rejects import Rejects, bad_row_error
from blocks.arrow.rows import TAKEN, Staged, is_rows, is_stream, table_of_rows
from blocks.arrow.types import filter_batch, without_view
from blocks.base.arguments import checked
from blocks.base.caching import key_by_identity
from blocks.base.concurrency import read_ahead
from blocks.base.errors import ConnectorError, InvalidInputError, UnsupportedError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.arrow.parts import Part, StagedPart
    from blocks.base.names import Count
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

AHEAD_BYTES = 8 * 2**20
"""How many bytes a stage of a pipeline may run ahead of the next one."""


class Scan:
    """A description of tabular data, untouched until it is opened.

    Args:
        schema: The Arrow schema, or a function that finds it when it is first needed.
        open_batches: Opens a fresh stream of record batches; bad rows go to the `Rejects` it is given.
        source: Where the data comes from, without secrets; for messages.
        reopenable: Whether `open_batches` works more than once.
        fingerprint: Proves what the data is: by the content of memory, or the names and versions of files. Data with
            the same one is the same data, so that a retried run recognizes what it loaded. Without it, what a second
            reading gives may be something else: a query of a live database, a one-pass reader, an API.
        proves: Tells whether the fingerprint does, where that is known only once the data is looked at.
        query: What is asked of the source, where `source` alone does not tell it: SQL and its parameters, columns.
        inferred: The columns whose types were inferred from text: a load casts them to the types of the table.
        origins: The asset keys of the tables or objects that it reads.
        rows: How many rows there are, where that is known before they are read.
        division: How it is divided into parts; None where it is read as a whole only.
        part: Which part it is, where it was divided.
        staged: The staged parts that it reads.
        form: How the source is read: the schema and options on which its rows depend, where there are some.
    """

    @checked
    def __init__(
        self,
        schema: pa.Schema | Callable[[], pa.Schema],
        open_batches: Callable[[Rejects | None], Iterable[pa.RecordBatch]],
        *,
        source: str,
        reopenable: bool = True,
        fingerprint: Callable[[], str] | None = None,
        proves: Callable[[], bool] | None = None,
        query: str = "",
        inferred: Callable[[], Collection[str]] = frozenset,
        origins: Sequence[str] = (),
        rows: int | None = None,
        division: Division[Scan] | None = None,
        part: Part | None = None,
        staged: Sequence[StagedPart] = (),
        form: str = "",
    ) -> None:
        self._schema = schema
        self._open = open_batches
        self._opened = False
        self._fingerprint = fingerprint
        self._proves = proves
        self.source = source
        self.reopenable = reopenable
        self.inferred = inferred
        self.query = query
        self.origins = tuple(origins)
        self.rows = rows
        self.part = part
        self.staged = tuple(staged)
        self.form = form
        self._steps: tuple[Callable[[Scan], Scan], ...] = ()
        self._division = division

    @property
    @checked
    def schema(self) -> pa.Schema:
        """The Arrow schema; if none was declared, the first access may read the start of the data."""
        if callable(self._schema):
            self._schema = self._schema()
        return self._schema

    def __repr__(self) -> str:
        return f"Scan({self.source})"

    def __reduce__(self) -> tuple[Callable[[bytes], Scan], tuple[bytes]]:
        """Return what another process makes the same scan of; by value, as most scans hold functions of their own.

        Raises:
            InvalidInputError: It can be read only once, or one of its functions holds what no process can pass on.
        """
        if not self.reopenable:
            raise InvalidInputError(
                f"{self.source} can be read only once, and only in this process. Pass a table, a frame or a scan."
            )
        import cloudpickle

        try:
            return _unpickled, (cloudpickle.dumps((type(self), self.__dict__)),)
        except ConnectorError:
            raise
        except Exception as error:
            raise InvalidInputError(
                f"{self!r} cannot be passed to another process: one of its functions holds an object that cannot be "
                f"pickled ({type(error).__name__}). Make that object within the function."
            ) from error

    @checked
    def batches(self, rejects: Rejects | None = None) -> Iterator[pa.RecordBatch]:
        """Open a new stream of record batches of `schema`, read ahead in a thread.

        Args:
            rejects: Where bad rows go. Without it a bad row is an error: no row is dropped silently.

        Raises:
            InvalidInputError: The data can be read only once and has been read, or there is a bad row and no `rejects`.
        """
        if self._opened and not self.reopenable:
            raise read_once_error(self.source)
        self._opened = True
        return read_ahead(self._open(rejects), size=lambda batch: batch.nbytes, limit=AHEAD_BYTES)

    @property
    def provable(self) -> bool:
        """Whether the data proves what it is: a second reading gives the same rows, or has another fingerprint."""
        return self._fingerprint is not None and (self._proves is None or self._proves())

    def fingerprint(self) -> str:
        """Return what tells this data from other data; where it is not `provable`, only what it is asked of."""
        return self._fingerprint() if self._fingerprint else f"{self.source} {self.query}"

    def settled(self) -> Scan:
        """Return the scan with what it reads decided now: all of its openings read the same files.

        A load settles what it loads before its first attempt, so that its identity is that of the files it reads.
        """
        return self

    def derive(self, make: Callable[[Scan], Scan]) -> Scan:
        """Return the scan that `make` makes of this one; of a settled one where this one is not settled yet."""
        made = make(self)
        made._steps = (*self._steps, make)  # noqa: SLF001 (one of us)
        if self._division is not None:
            made._division = self._division.through(lambda part: part.derive(make))  # noqa: SLF001 (one of us)
        return made

    def cache_identity(self) -> str:
        """Return what a cached result belongs to that was made of this data; no row is read for it.

        Of files it is their names and versions as they are now, and how they are read; of a table or query of a live
        database what is asked, as nothing tells what it would answer. What was made of the scan belongs to it, too.

        Raises:
            InvalidInputError: It can be read only once, or one of the functions it was made by cannot be pickled.
        """
        scan = self.settled()
        if not scan.reopenable:
            raise InvalidInputError(
                f"No result can be cached by {scan.source}, which can be read only once. Pass a table, a frame or a "
                "scan, or give the task cache_policy=NO_CACHE."
            )
        part = scan.part and (scan.part.proof or scan.part.division, scan.part.number, scan.part.of)
        facts = (scan.fingerprint(), scan.source, scan.query, scan.form, part)
        return hashlib.blake2b(repr(facts).encode() + scan._pickled_steps(), digest_size=16).hexdigest()  # noqa: SLF001 (one of us)

    def _pickled_steps(self) -> bytes:
        import cloudpickle

        try:
            pickled: bytes = cloudpickle.dumps(self._steps)
        except Exception as error:
            raise InvalidInputError(
                f"No result can be cached by {self!r}: one of its functions holds an object that cannot be pickled "
                f"({type(error).__name__}). Make that object within the function."
            ) from error
        return pickled

    @checked
    def partitions(self, n: Count, *, snapshot: bool = True) -> Partitions[Scan]:
        """Divide it into at most `n` scans, which together have each row once, for threads, processes or machines.

        They pickle, and what is made of this scan (`map_batches`, `select`, `reject`, a contract) is made of each.
        Files are divided by size, large Parquet files by their row groups; a table of PostgreSQL by ranges of its
        pages, a partitioned one across its partitions. The parts of a table are of one snapshot, which a context holds:

            with warehouse.scan("orders").partitions(8) as parts:
                staged = stage_part.map(parts, unmapped(warehouse)).result()
                warehouse.load(staged, "orders", mode="replace")

        Args:
            n: How many; there are fewer where there is less to divide.
            snapshot: False reads each part of a table as it is when it is read: a row that moves meanwhile may be
                read twice, or not at all.

        Raises:
            UnsupportedError: The data cannot be divided, or its server cannot share a snapshot.
        """
        return Partitions(self._find_division, n, snapshot=snapshot, source=self.source)

    def _find_division(self) -> Division[Scan]:
        settled = self.settled()
        if settled._division is None:  # noqa: SLF001 (one of us)
            raise UnsupportedError(
                f"{self.source} cannot be divided into parts; files, and tables of PostgreSQL, can. Read it as one, or "
                "divide it yourself: one scan_query for each range of a key."
            )
        return settled._division  # noqa: SLF001 (one of us)

    @checked
    def map_batches(self, fn: Callable[[pa.RecordBatch], pa.RecordBatch], *, schema: pa.Schema | None = None) -> Scan:
        """Return the scan with `fn` applied to each batch, lazily.

        Args:
            fn: Takes a record batch and returns one.
            schema: The schema of what `fn` returns. Defaults to what it returns for an empty batch.
        """

        def make(scan: Scan) -> Scan:
            def mapped(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
                return (fn(batch) for batch in scan.batches(rejects))

            def find_schema() -> pa.Schema:
                return fn(empty_batch(scan.schema)).schema

            return scan.over(schema or find_schema, mapped)

        return self.derive(make)

    @checked
    def reject(self, where: Callable[[pa.RecordBatch], Any], reason: str, *, column: str | None = None) -> Scan:
        """Return the scan without the rows for which `where` is true; those go to the quarantine with `reason`.

        Args:
            where: Takes a record batch and returns a boolean Arrow array, in which null counts as false.
            reason: A few words without any value, such as "amount is negative".
            column: The column at fault, if it is a single one.
        """

        def make(scan: Scan) -> Scan:
            def kept(batches: Iterator[pa.RecordBatch], rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
                for batch in batches:
                    bad = pc.fill_null(where(batch), fill_value=False)
                    if not pc.any(bad).as_py():
                        yield batch
                        continue
                    if rejects is None:
                        raise bad_row_error(scan.source, reason)
                    rejects.add_rows(filter_batch(batch, bad), reason, column=column)
                    yield filter_batch(batch, pc.invert(bad))

            return scan.over(lambda: scan.schema, lambda rejects: kept(scan.batches(rejects), rejects))

        return self.derive(make)

    def over(
        self,
        schema: pa.Schema | Callable[[], pa.Schema],
        open_batches: Callable[[Rejects | None], Iterable[pa.RecordBatch]],
    ) -> Scan:
        """Return a scan of other batches that are made of this one's: of the same source, and the same identity."""
        return Scan(
            schema,
            open_batches,
            source=self.source,
            reopenable=self.reopenable,
            fingerprint=self._fingerprint,
            proves=self._proves,
            query=self.query,
            inferred=self.inferred,
            origins=self.origins,
            rows=self.rows,
            part=self.part,
            form=self.form,
        )

    @checked
    def select(self, columns: Sequence[str]) -> Scan:
        """Return the scan with only these columns, in this order."""
        return self.map_batches(lambda batch: batch.select(list(columns)))

    @checked
    def to_arrow(self) -> pa.Table:
        """Read all of it as one Arrow table."""
        scan = self.settled()
        return pa.Table.from_batches(scan.batches(), schema=scan.schema)

    @checked
    def to_pandas(self) -> pd.DataFrame:
        """Read all of it as a pandas frame."""
        return self.to_arrow().to_pandas()

    @checked
    def to_reader(self) -> pa.RecordBatchReader:
        """Open a new one-pass Arrow reader."""
        scan = self.settled()
        return pa.RecordBatchReader.from_batches(scan.schema, scan.batches())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Open a new Arrow C stream, so that polars, DuckDB, pandas and pyarrow accept a scan as it is."""
        return self.to_reader().__arrow_c_stream__(requested_schema)


class GrowingScan(Scan):
    """A scan of what may have grown by the time it is opened again, such as the files of a folder.

    Args:
        settle: Finds out what there is now, and returns the scan of just that.
        source: Where the data comes from, without secrets; for messages.
        origins: The asset keys of the objects that it reads.
    """

    def __init__(self, settle: Callable[[], Scan], *, source: str, origins: Sequence[str] = ()) -> None:
        super().__init__(
            lambda: settle().schema,
            lambda rejects: settle().batches(rejects),
            source=source,
            inferred=lambda: settle().inferred(),
            origins=origins,
        )
        self._settle = settle

    @property
    @override
    def schema(self) -> pa.Schema:
        """The Arrow schema of what there is now."""
        return self._settle().schema

    @property
    @override
    def provable(self) -> bool:
        """Whether the data proves what it is."""
        return self._settle().provable

    @override
    def fingerprint(self) -> str:
        """Return what tells the data that there is now from other data."""
        return self._settle().fingerprint()

    @override
    def settled(self) -> Scan:
        """Return the scan of what there is now."""
        return self._settle()

    @override
    def derive(self, make: Callable[[Scan], Scan]) -> Scan:
        """Return a scan that grows as this one does."""
        return GrowingScan(lambda: self._settle().derive(make), source=self.source, origins=self.origins)


for _kind in (Scan, GrowingScan):
    key_by_identity(_kind, _kind.cache_identity, repr)


def _unpickled(pickled: bytes) -> Scan:
    kind, state = pickle.loads(pickled)  # noqa: S301 (part of a pickle itself)
    scan: Scan = kind.__new__(kind)
    scan.__dict__.update(state)
    return scan


def as_scan(data: Any, *, source: str = "the data") -> Scan:  # noqa: PLR0911 (one kind of data a line)
    """Return a Scan of anything that holds a table: a Scan, frames, Arrow's tables and readers, Python's rows.

    Raises:
        InvalidInputError: It is none of these; the message says what to pass.
    """
    if isinstance(data, Scan):
        return data
    if isinstance(data, pa.RecordBatchReader):
        return _without_views(_one_pass(data, data, source))
    if (table := table_of(data)) is not None:
        return _in_memory(table, source)
    if isinstance(data, Mapping):
        return _in_memory(from_columns(data), source)
    if hasattr(data, "__arrow_c_stream__"):
        with _tabular(data):
            if hasattr(data, "__len__"):  # in memory
                return _in_memory(pa.table(data), source)
            return _without_views(_one_pass(data, pa.RecordBatchReader.from_stream(data), source))
    if is_stream(data):
        return _staged(data, source)
    if parts := staged_of(data):
        return _of_parts(parts)
    if is_rows(data):
        return _in_memory(table_of_rows(data, type(data).__name__), source)
    raise _not_tabular(data)


def _in_memory(table: pa.Table, source: str) -> Scan:
    return _without_views(
        Scan(
            table.schema,
            lambda _: table.to_batches(max_chunksize=65_536),
            source=source,
            fingerprint=lambda: content_digest(table),
            rows=table.num_rows,
        )
    )


def _staged(stream: Any, source: str) -> Scan:
    """Return a scan of the rows of a stream, once they are on disk."""
    staged = Staged.of(stream, source)
    return Scan(staged.schema, lambda _: staged.batches(), source=source, fingerprint=staged.fingerprint)


def parts_of(
    openings: Sequence[Callable[[Rejects | None], Iterable[pa.RecordBatch]]],
    *,
    schema: pa.Schema,
    source: str,
    query: str,
    inferred: Collection[str] = frozenset(),
    fingerprint: str | None = None,
    origins: Sequence[str] = (),
    form: str = "",
) -> list[Scan]:
    """Return the scans of the parts of a source, each opened by one of the functions; the rest is the source's own."""
    columns = frozenset(inferred)

    def make(open_batches: Callable[[Rejects | None], Iterable[pa.RecordBatch]], part: Part) -> Scan:
        which = f"part {part.number} of {part.of}"
        return Scan(
            schema,
            open_batches,
            source=f"{source} ({which})",
            fingerprint=(lambda: f"{fingerprint} {which}") if fingerprint else None,
            query=f"{query} {which}",
            inferred=lambda: columns,
            origins=origins,
            part=part,
            form=form,
        )

    return divided(openings, make, source=source, query=query, proof=fingerprint)


def _of_parts(parts: Sequence[StagedPart]) -> Scan:
    """Return a scan of staged parts, which never change: the same ones are the same data."""
    part = parts[0].part
    places = hashlib.blake2b("\0".join(each.place for each in parts).encode(), digest_size=16).hexdigest()

    def batches(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        for each in parts:
            rows = 0
            for batch in each.batches(rejects):
                rows += batch.num_rows
                yield batch
            if rows != each.rows:
                raise each.count_error(rows)

    inferred = frozenset().union(*(each.inferred for each in parts))
    return Scan(
        parts[0].schema,
        batches,
        source=f"{part.of} parts of {part.source}",
        fingerprint=lambda: part.proof or f"{part.division} {places}",
        query=f"{part.of} parts of {part.query}",
        inferred=lambda: inferred,
        origins=sorted({origin for each in parts for origin in each.origins}),
        rows=sum(each.rows for each in parts),
        staged=parts,
    )


def with_stream_staged(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with `data` as a scan where it is a stream, which may be bound to this thread."""
    data = arguments.get("data")
    return arguments | {"data": as_scan(data)} if is_stream(data) else arguments


@contextlib.contextmanager
def _tabular(data: object) -> Iterator[None]:
    """Say so where a stream has no columns, as that of a single column."""
    try:
        yield
    except ConnectorError:
        raise
    except (pa.ArrowException, TypeError, ValueError):
        raise _not_tabular(data) from None


def _not_tabular(data: object) -> InvalidInputError:
    hint = ""
    if hasattr(data, "__aiter__"):
        hint = " Collect what comes asynchronously first: [row async for row in rows]."
    elif isinstance(data, str | bytes | PathLike):
        hint = " To read a file, scan it: LocalFiles().scan(path)."
    return InvalidInputError(f"{type(data).__name__} is not tabular data. Pass {TAKEN}.{hint}")


class _Reading:
    """How far an object was read that gives its rows as a stream. Every scan of the object shares it.

    Without it a second scan of the same reader, such as that of a retried task, would find no rows left and call that
    a success.
    """

    _of: ClassVar[dict[int, _Reading]] = {}

    def __init__(self) -> None:
        self._begun = False
        self._broken_off = False
        self._rows = 0

    @classmethod
    def of(cls, data: object) -> _Reading:
        """Return the one of this object, for as long as that lives."""
        if (known := cls._of.get(id(data))) is not None:
            return known
        reading = cls()
        with contextlib.suppress(TypeError):  # not every object can be watched
            weakref.finalize(data, cls._of.pop, id(data), None)
            cls._of[id(data)] = reading
        return reading

    def batches(self, reader: pa.RecordBatchReader, source: str, *, once: bool) -> Iterator[pa.RecordBatch]:
        """Return the rows of the stream.

        Args:
            reader: The stream.
            source: What it is of, for the message.
            once: Whether the object is known to give its rows only once. One of which that is not known is read again
                as long as each reading came to its end, and has rows where an earlier one had.

        Raises:
            InvalidInputError: The rows, or some of them, were given already.
        """
        if (once and self._begun) or self._broken_off:
            raise read_once_error(source)
        self._begun = True
        return self._watched(reader, source)

    def _watched(self, reader: pa.RecordBatchReader, source: str) -> Iterator[pa.RecordBatch]:
        rows, at_end = 0, False
        try:
            for batch in reader:
                rows += batch.num_rows
                yield batch
            at_end = True
        finally:
            self._broken_off = self._broken_off or not at_end
        if self._rows and not rows:
            raise read_once_error(source)
        self._rows = rows


def _one_pass(data: Any, reader: pa.RecordBatchReader, source: str) -> Scan:
    reading, once = _Reading.of(data), data is reader or hasattr(data, "__next__")
    return Scan(reader.schema, lambda _: reading.batches(reader, source, once=once), source=source, reopenable=False)


def read_once_error(source: str) -> InvalidInputError:
    """Return the error for a second reading of what can be read only once."""
    return InvalidInputError(
        f"{source} can be read only once, so there is no second attempt. Pass a table, a frame or a scan."
    )


def _without_views(scan: Scan) -> Scan:
    """Return the scan with text as Arrow's kernels take it; polars hands it out as views, which few of them take."""
    schema = pa.schema([field.with_type(without_view(field.type)) for field in scan.schema])
    if schema == scan.schema:
        return scan
    return scan.map_batches(lambda batch: cast_batch(batch, schema), schema=schema)


def content_digest(table: pa.Table) -> str:
    """Return a digest of the values and types of a table, whatever its layout in memory."""
    digest = hashlib.blake2b(digest_size=16)

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), table.schema) as writer:
        for start in range(0, table.num_rows, 65_536):
            writer.write_table(table.slice(start, 65_536).combine_chunks())
    return digest.hexdigest()


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
