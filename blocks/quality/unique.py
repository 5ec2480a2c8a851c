"""Keys of a stream: which rows repeat one that came before. Exact over any number of rows, in bounded memory.

Each key becomes a word of 64 bits, and the words that came so far are kept in sorted runs behind a filter that knows
most of the new ones: 8 bytes a key, the long runs in temporary files. A key of one number, date or time is its word.
Any other key is hashed, and a word that comes again is a suspicion only: the keys themselves, which DuckDB keeps within
its memory limit and else on disk, decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from blocks.arrow.types import plain_type
from blocks.base.optional import require
from blocks.base.temporary import TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    Words = NDArray[np.uint64]

RUN_WORDS = 2**22
"""How many words stay in memory (32 MB) until they go to a file."""

FILTER_BITS = 27
"""The size of the filter: 2^27 bits are 16 MB, and spare 9 of 10 searches among 10 million words."""

KEPT_KEYS_MEMORY = "128MB"
"""What DuckDB may hold in memory of keys that are more than a number."""


class SeenKeys:
    """The keys that came so far.

    Args:
        kinds: The Arrow types of the key's columns; see `can_be_key`.
        run_words: How many words stay in memory.
        hash_bits: How much of a hash is used; fewer bits make more suspicions and the same verdicts.
    """

    def __init__(self, kinds: Sequence[pa.DataType], *, run_words: int = RUN_WORDS, hash_bits: int = 64) -> None:
        self._folder: TemporaryFolder | None = None
        self._words = _WordSet(self._path, run_words)
        self._kept = None if len(kinds) == 1 and _is_word(kinds[0]) else _KeptKeys(len(kinds), self._path, hash_bits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the files."""
        if self._kept:
            self._kept.close()
        self._words.close()
        if self._folder:
            self._folder.close()

    def repeats(self, columns: Sequence[pa.Array]) -> NDArray[np.bool_]:
        """For each row, whether an earlier one has the same key. From now on these keys are among the earlier ones.

        Args:
            columns: The key's columns, without nulls. Floats compare as numbers: NaN equals NaN, and -0.0 equals 0.0.
        """
        plain = [_comparable(column) for column in columns]
        words = self._kept.words(plain) if self._kept else _as_words(plain[0])
        ordered = np.sort(words)
        suspect = self._words.found(ordered)
        suspect[1:] |= ordered[1:] == ordered[:-1]
        if not suspect.any():
            repeated = np.zeros(len(words), bool)
        elif self._kept:
            repeated = self._kept.repeated(plain, np.isin(words, ordered[suspect]))
        else:
            repeated = np.ones(len(words), bool)
            different, firsts = np.unique(words, return_index=True)
            repeated[firsts] = self._words.found(different)
        new = ordered if not suspect.any() else np.unique(words[~repeated])
        self._words.add(new)
        if self._kept:
            self._kept.add(plain, ~repeated)
        return repeated

    def _path(self) -> Path:
        if self._folder is None:
            self._folder = TemporaryFolder()
        return self._folder.path


class _WordSet:
    """Words in sorted runs, each at most half as long as the one before it; long ones are files."""

    def __init__(self, folder: Callable[[], Path], run_words: int) -> None:
        self._folder = folder
        self._run_words = run_words
        self._runs: list[Words] = []
        self._files: list[Words] = []
        self._filter = np.zeros(2**FILTER_BITS // 8, np.uint8)  # a bit is set where some word was: a Bloom filter

    def found(self, ordered: Words) -> NDArray[np.bool_]:
        """Return which of the words, given in their order, are here."""
        found = np.zeros(len(ordered), bool)
        if not len(ordered):
            return found
        near = [run for run in (*self._files, *self._runs) if run[0] <= ordered[-1] and run[-1] >= ordered[0]]
        if not near:
            return found
        byte, bit = _filter_places(ordered)
        maybe = np.flatnonzero(self._filter[byte] & bit)
        words = ordered[maybe]
        for run in near:
            places = np.searchsorted(run, words)
            places[places == len(run)] = 0  # greater than all of them, so not the first
            found[maybe] |= run[places] == words
        return found

    def add(self, ordered: Words) -> None:
        """Keep these words, which are given in their order."""
        if not len(ordered):
            return
        byte, bit = _filter_places(ordered)
        np.bitwise_or.at(self._filter, byte, bit)
        self._runs.append(ordered)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._merge(2)
        if sum(map(len, self._runs)) >= self._run_words:
            self._merge(len(self._runs))
            path = self._folder() / f"{len(self._files)}.words"
            self._runs.pop().tofile(path)
            self._files.append(np.memmap(path, np.uint64, mode="r"))

    def close(self) -> None:
        """Close the files."""
        self._runs.clear()
        self._files.clear()

    def _merge(self, count: int) -> None:
        merged = np.concatenate(self._runs[-count:])
        merged.sort(kind="stable")  # which merges what is in order already
        self._runs[-count:] = [merged]


def _filter_places(words: Words) -> tuple[Words, NDArray[np.uint8]]:
    """Return the byte and the bit of the filter that each word has, spread evenly whatever the words are."""
    places = (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - FILTER_BITS)
    return places >> np.uint64(3), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)


class _KeptKeys:
    """The keys themselves, in a DuckDB that spills to the folder, and their hashes."""

    def __init__(self, columns: int, folder: Callable[[], Path], hash_bits: int) -> None:
        self._names = [f"k{number}" for number in range(columns)]
        self._list = ", ".join(self._names)
        self._folder = folder
        self._shift = np.uint64(64 - hash_bits)
        self._open: Any = None

    def words(self, columns: list[pa.Array]) -> Words:
        """Return the hash of each key."""
        rows = self._database(columns).execute(f"SELECT hash({self._list}) AS word FROM keys").fetchnumpy()["word"]
        words: Words = np.asarray(rows, np.uint64) >> self._shift
        return words

    def repeated(self, columns: list[pa.Array], suspects: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which keys are among the kept ones, or come a second time; only the suspects are looked at."""
        places = np.flatnonzero(suspects)
        chosen = [column.take(pa.array(places)) for column in columns]
        database = self._database([*chosen, pa.array(places)], [*self._names, "place"])
        later = database.execute(
            f"SELECT place FROM keys QUALIFY row_number() OVER (PARTITION BY {self._list} ORDER BY place) > 1 "
            f"UNION ALL SELECT place FROM keys JOIN kept USING ({self._list})"
        ).fetchnumpy()["place"]
        repeated = np.zeros(len(suspects), bool)
        repeated[np.asarray(later, np.int64)] = True
        return repeated

    def add(self, columns: list[pa.Array], new: NDArray[np.bool_]) -> None:
        """Keep the keys that are new."""
        chosen = columns if new.all() else [column.filter(pa.array(new)) for column in columns]
        self._database(chosen).execute("INSERT INTO kept SELECT * FROM keys")

    def close(self) -> None:
        """Drop the database."""
        if self._open:
            self._open.close()

    def _database(self, columns: list[pa.Array], names: list[str] | None = None) -> Any:
        keys = pa.table(columns, names or self._names)
        if self._open is None:
            config = {"memory_limit": KEPT_KEYS_MEMORY, "temp_directory": str(self._folder())}
            self._open = require("duckdb", extra="duckdb").connect(":memory:", config=config)
            self._open.register("keys", keys)
            self._open.execute("CREATE TABLE kept AS SELECT * FROM keys LIMIT 0")
        self._open.register("keys", keys)
        return self._open


def can_be_key(kind: pa.DataType) -> bool:
    """Tell whether keys may have columns of the type.

    >>> [can_be_key(kind) for kind in (pa.int64(), pa.string(), pa.list_(pa.int64()))]
    [True, True, False]
    """
    if isinstance(kind, pa.UuidType):
        return True
    plain = plain_type(kind)
    known = (types.is_decimal, types.is_string, types.is_binary)
    return _is_word(plain) or any(belongs(plain) for belongs in known)


def _is_word(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    known = (types.is_boolean, types.is_integer, types.is_floating, types.is_date, types.is_time, types.is_timestamp)
    return any(belongs(kind) for belongs in known) or bool(types.is_duration(kind))


def _comparable(column: pa.Array) -> pa.Array:
    """Return the values as integers, decimals or bytes that are equal where the values are, to Arrow and to DuckDB."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_floating(kind):
        values = column.cast(pa.float64()).to_numpy() + 0.0  # which makes -0.0 a 0.0
        values[np.isnan(values)] = np.nan
        return pa.array(values.view(np.int64))
    if types.is_uint64(kind):
        return pa.array(column.to_numpy().view(np.int64))
    if types.is_boolean(kind) or types.is_integer(kind):
        return column.cast(pa.int64())
    if _is_word(kind):  # days and ticks
        return column.view(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())  # noqa: PLR2004
    if types.is_decimal(kind):
        small = kind.precision <= 38  # noqa: PLR2004 (what DuckDB has)
        return column.cast(pa.decimal128(kind.precision, kind.scale)) if small else pc.cast(column, pa.string())
    return column.cast(pa.large_binary())


def _as_words(column: pa.Array) -> Words:
    words: Words = column.to_numpy().view(np.uint64)
    return words
