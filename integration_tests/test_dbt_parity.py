"""The command line of dbt and DbtProject, side by side: the same exit code, statuses and database.

Each case is a list of command lines, run one after the other in two copies of one project, on DuckDB by the project's
own profile and on PostgreSQL by a block. One is in every run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest
import yaml  # type: ignore[import-untyped]

from blocks.base.errors import ConnectorError
from blocks.base.retry import RetryPolicy
from connectors.dbt import DbtFailedError, DbtProject
from connectors.postgres import Postgres
from integration_tests.standins.dbt_command import DbtCommand
from tests.test_dbt import passwords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from integration_tests.standins.postgres import Address, PostgresServer

ENGINES = ("duckdb", "postgres")
ONCE = RetryPolicy(attempts=1)
TIMES = ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to", "at")
"""Columns whose values are the time of the run."""

PROJECT = {
    "dbt_project.yml": """
name: shop
version: "1.0"
profile: shop
flags: {send_anonymous_usage_stats: false}
on-run-start: ["create table if not exists runs (note varchar)", "insert into runs values ('{{ var('note', 'n') }}')"]
on-run-end: ["{{ 'select * from nowhere' if var('bad_hook', false) else 'select 1' }}"]
vars: {most: 2}
""",
    "selectors.yml": """
selectors:
  - name: staged
    definition: {method: tag, value: staged}
  - name: all_but_bad
    definition: {union: [{method: fqn, value: "*"}, {exclude: [{method: tag, value: bad}]}]}
""",
    "seeds/raw_orders.csv": "id,customer,amount\n1,ann,10\n2,bob,20\n3,bob,30\n",
    "seeds/given.csv": "id,loaded\n1,2020-01-01\n",
    "data/x.csv": "id,note\n1,here\n",
    "models/stg.sql": "{{ config(tags=['staged']) }} select id, customer, amount from {{ ref('raw_orders') }}",
    "models/eph.sql": "{{ config(materialized='ephemeral') }} select id, amount from {{ ref('stg') }}",
    "models/orders.sql": "{{ config(materialized='table', meta={'owner': 'x'}) }} "
    "select id, amount from {{ ref('stg') }}",
    "models/of_eph.sql": "select sum(amount) as amount from {{ ref('eph') }}",
    "models/inc.sql": "{{ config(materialized='incremental', unique_key='id') }} "
    "select id, '{{ var('note', 'n') }}' as note from {{ ref('stg') }} where id <= {{ var('most') }}",
    "models/days.sql": "{{ config(materialized='table', event_time='day') }} "
    "select i as id, timestamp '2026-01-01' + i * interval '1 day' as day from generate_series(0, 2) r(i)",
    "models/batches.sql": "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', "
    "begin='2026-01-01', batch_size='day', unique_key='id') }} select id, day from {{ ref('days') }} "
    "where {% if model.batch and model.batch.id == var('bad_batch', '') %} cast('x' as int) = id "
    "{% else %} true {% endif %}",
    "models/after_batches.sql": "select count(*) as n from {{ ref('batches') }}",
    "models/flaky.sql": "{{ config(tags=['bad']) }} select {{ 'no_such' if var('bad', false) else '1' }} as id",
    "models/child.sql": "{{ config(tags=['bad']) }} select id from {{ ref('flaky') }}",
    "models/off.sql": "{{ config(enabled=false) }} select 1 as id",
    "models/schema.yml": """
models:
  - name: orders
    columns:
      - name: id
        data_tests: [not_null, unique]
      - name: amount
        data_tests:
          - accepted_values: {arguments: {values: [10, 20]}, config: {severity: warn}}
  - name: stg
    columns: [{name: id, data_tests: [not_null]}]
sources:
  - name: given
    schema: "{{ target.schema }}"
    config:
      loaded_at_field: "cast(loaded as timestamp)"
      freshness: {warn_after: {count: 1, period: day}}
    tables: [{name: given}]
exposures:
  - {name: board, type: dashboard, owner: {email: a@b.c}, depends_on: ["ref('orders')"]}
unit_tests:
  - name: amounts
    model: orders
    given: [{input: ref('stg'), rows: [{id: 1, amount: 5}]}]
    expect: {rows: [{id: 1, amount: 5}]}
""",
    "tests/few.sql": "{{ config(enabled=var('strict', false)) }} select * from {{ ref('orders') }} where id = 1",
    "snapshots/kept.sql": "{% snapshot kept %}{{ config(unique_key='id', strategy='check', check_cols=['amount']) }} "
    "select * from {{ ref('raw_orders') }}{% endsnapshot %}",
    "macros/note.sql": '{% macro note(text, n=1) %}{% do run_query("create table noted as select \'" ~ text '
    '~ "\' as text, " ~ n ~ " as n") %}{% endmacro %}\n'
    "{% macro breaks() %}{{ exceptions.raise_compiler_error('broken') }}{% endmacro %}",
}
DUCKDB_ONLY = {
    "models/files.sql": "{{ config(materialized='table') }} select * from read_csv('data/x.csv')",
    "models/outside.sql": "{{ config(materialized='external', location='data/outside.parquet') }} select 1 as id",
    "models/py.py": "def model(dbt, session):\n    return session.sql('select 1 as id')\n",
}
SHOP_FILE = "{{ env_var('SHOP_FILE', 'two') }}"

DAYS = "--event-time-start 2026-01-01 --event-time-end 2026-01-04"
BAD_BATCH = "--vars '{bad_batch: \"2026010%d\"}'"
WHOLE = "--exclude batches after_batches"
PARSER = re.compile("pars|introspect|version-check|warn-error|selector")
"""Lines about what is done before and while dbt parses."""
SEED = "seed"
FAIL_FAST = "--fail-fast --single-threaded"
"""With threads, even with one, dbt may have begun the next node when it hears of a failure."""
PARSE = "compile --select eph"
"""What parses a project, and touches no database."""
BUILD = f"build {WHOLE}"
WORST = f"build {DAYS} --vars '{{bad: true, bad_batch: \"20260102\", bad_hook: true}}'"
CASES: dict[str, list[str]] = {
    "a failed batch, a failed node and a failed hook": [WORST],
    "build": [f"build {WHOLE}"],
    "build twice": [f"build {WHOLE}", f"build {WHOLE} --vars '{{note: second}}'"],
    "build full refresh": [f"build {WHOLE}", f"build {WHOLE} --full-refresh --vars '{{most: 1}}'"],
    "build fail fast": [f"build {WHOLE} {FAIL_FAST} --vars '{{bad: true}}'"],
    "run fail fast": ["run --select flaky child --fail-fast --vars '{bad: true}'"],
    "retry of a run fail fast": ["run --select flaky child --fail-fast --vars '{bad: true}'", "retry"],
    "build strict": [f"build {WHOLE} --vars '{{strict: true}}'"],
    "build warn error": [f"build {WHOLE} --warn-error"],
    "build warn error options": [f"build {WHOLE} --warn-error-options '{{error: [LogTestResult]}}'"],
    "build empty": [f"build {WHOLE} --empty"],
    "build selector": ["build --selector all_but_bad --exclude-resource-type=model"],
    "build resource type": ["build --resource-type=seed"],
    "build resource types": ["build --resource-type=seed --resource-type=model --exclude batches after_batches"],
    "build exclude resource type": [f"build {WHOLE} --exclude-resource-type=test"],
    "build store failures": [f"build {WHOLE} --store-failures"],
    "build two": [f"build {WHOLE} --target two"],
    "build indirect cautious": ["seed", "build --select stg orders --indirect-selection=cautious"],
    "build indirect empty": ["seed", "build --select stg orders --indirect-selection=empty"],
    "build indirect buildable": ["seed", "build --select stg orders --indirect-selection=buildable"],
    "build bad hook": [f"build {WHOLE} --vars '{{bad_hook: true}}'"],
    "build no partial parse": [f"build {WHOLE}", "build --select orders --no-partial-parse"],
    "build no populate cache": [f"build {WHOLE} --no-populate-cache"],
    "build cache selected only": [f"build {WHOLE} --cache-selected-only"],
    "build single threaded": [f"build {WHOLE} --single-threaded"],
    "build threads": [f"build {WHOLE} --threads 4"],
    "build no version check": [f"build {WHOLE} --no-version-check"],
    "build no static parser": [f"build {WHOLE} --no-static-parser"],
    "compile no introspect": ["seed", "compile --select stg --no-introspect"],
    "build sample": ["build --select days batches --event-time-start 2026-01-01 --event-time-end 2026-01-03"],
    "run": ["seed", f"run {WHOLE}"],
    "run select": ["seed", "run --select stg+ --exclude tag:bad inc"],
    "run tag": ["seed", "run --select tag:staged"],
    "run path": ["seed", "run --select path:models/stg.sql"],
    "run intersection": ["seed", "run --select 'stg+,config.materialized:table'"],
    "run meta": ["seed", "run --select stg config.meta.owner:x"],
    "run selector": ["seed", "run --selector staged"],
    "run files": ["run --select files"],
    "run outside": ["run --select outside"],
    "run python": ["run --select py"],
    "run microbatch": [f"run --select days batches after_batches {DAYS}"],
    "run microbatch twice": [
        "run --select days batches --event-time-start 2026-01-01 --event-time-end 2026-01-03",
        "run --select batches --event-time-start 2026-01-02 --event-time-end 2026-01-04",
    ],
    "run microbatch failed and retried": [
        f"run --select days batches after_batches {DAYS} {BAD_BATCH % 2}",
        "retry",
    ],
    "run microbatch failed first": [
        f"run --select days batches after_batches {DAYS} {BAD_BATCH % 1}",
    ],
    "run full refresh": ["seed", "run --select stg inc", "run --select inc --full-refresh --vars '{most: 3}'"],
    "run vars of each kind": [
        "seed",
        "run --select stg inc --vars '{most: 1, note: 2026-04-30, x: null, y: [1, 2.5]}'",
    ],
    "run failed and retried": ["run --select flaky child --vars '{bad: true}'", "retry"],
    "run without its seed": ["run --select stg orders"],
    "run defer": [
        f"build {WHOLE}",
        "run --select orders --defer --state=target --target two",
    ],
    "run favor state": [f"build {WHOLE}", "run --select orders --defer --favor-state --state=target --target two"],
    "run state modified": [f"build {WHOLE}", "run --select state:modified+ inc --state=target"],
    "run state new": [f"build {WHOLE}", "run --select state:new inc --state=target"],
    "run result error": ["run --select flaky child --vars '{bad: true}'", "run --select result:error+ --state=target"],
    "test": [f"build {WHOLE}", "test"],
    "test strict": [f"build {WHOLE}", "test --vars '{strict: true}'"],
    "test unit": [f"build {WHOLE}", "test --select test_type:unit"],
    "test data": [f"build {WHOLE}", "test --select test_type:data"],
    "test singular": [f"build {WHOLE}", "test --select test_type:singular --vars '{strict: true}'"],
    "test store failures": [f"build {WHOLE}", "test --store-failures --vars '{strict: true}'"],
    "test resource type": [f"build {WHOLE}", "test --resource-type=unit_test"],
    "test before": ["test --select orders"],
    "test fail fast": [f"build {WHOLE}", f"test {FAIL_FAST} --vars '{{strict: true}}'"],
    "test failed and retried": [f"build {WHOLE}", "test --vars '{strict: true}'", "retry"],
    "seed": ["seed"],
    "seed select": ["seed --select raw_orders"],
    "seed twice": ["seed", "seed --full-refresh"],
    "seed show": ["seed --show"],
    "snapshot": ["seed", "snapshot"],
    "snapshot twice": ["seed", "snapshot", "snapshot --select kept"],
    "snapshot before": ["snapshot"],
    "source freshness": ["seed", "source freshness"],
    "source freshness select": ["seed", "source freshness --select source:given"],
    "compile": ["seed", "compile"],
    "compile select": ["seed", "compile --select orders"],
    "compile no ephemeral": ["seed", "compile --select orders --no-inject-ephemeral-ctes"],
    "docs": [f"build {WHOLE}", "docs generate"],
    "docs no compile": [f"build {WHOLE}", "docs generate --no-compile"],
    "docs empty catalog": [f"build {WHOLE}", "docs generate --empty-catalog"],
    "docs static": [f"build {WHOLE}", "docs generate --static"],
    "docs select": [f"build {WHOLE}", "docs generate --select orders"],
    "run-operation": ["run-operation note --args '{text: hello, n: 3}'"],
    "run-operation breaks": ["run-operation breaks"],
    "list": ["list"],
    "list select": ["list --select stg+"],
    "list resource type": ["list --resource-type=model"],
    "list selector": ["list --selector staged"],
    "clone": [f"build {WHOLE}", "clone --state=target --target two --select orders"],
    "fresher": ["seed", "source freshness", "build --select source_status:fresher+ raw_orders --state=target"],
    "retry of a build": [f"{BUILD} --vars '{{bad: true, most: 3, note: first}}'", "retry"],
    "retry of fail fast": [f"{BUILD} {FAIL_FAST} --vars '{{bad: true}}'", "retry"],
    "retry of a selector": ["seed", "build --selector all_but_bad --vars '{strict: true}'", "retry"],
    "run ancestors": ["seed", "run --select +orders"],
    "run some ancestors": ["seed", "run --select 1+of_eph"],
    "run some children": ["seed", "run --select stg+1"],
    "run with ancestors of children": ["seed", "run --select @stg --exclude tag:bad"],
    "run wildcard": ["seed", "run --select stg '*rders'"],
    "run file": ["run --select file:days.sql"],
    "run fqn": ["seed", "run --select fqn:shop.stg"],
    "run package": ["seed", "run --select package:shop --exclude batches after_batches"],
    "run resource type": ["build --select resource_type:seed"],
    "run source": ["seed", "build --select source:given+"],
    "run exposure": ["seed", "build --select +exposure:board"],
    "run test name": [BUILD, "test --select test_name:not_null"],
    "run state unmodified": [BUILD, "build --select state:unmodified --exclude batches after_batches --state=target"],
    "run state old": [BUILD, "run --select state:old,orders --state=target"],
    "run result success": [BUILD, "run --select result:success,orders --state=target"],
    "run result fail": [BUILD, "test --vars '{strict: true}'",
                        "test --select result:fail --state=target --vars '{strict: true}'"],
    "run defer state": [BUILD, "run --select orders --defer --defer-state=target --target two"],
    "run no defer": [BUILD, "run --select orders --no-defer --state=target"],
    "run sample": ["run --select days batches --sample='{\"start\": \"2026-01-01\", \"end\": \"2026-01-03\"}'"],
    "run microbatch full refresh": [
        f"run --select days batches {DAYS}",
        f"run --select batches {DAYS} --full-refresh",
    ],
    "run empty": ["seed", "run --select stg orders --empty"],
    "run macro debugging": ["seed", "run --select stg --macro-debugging"],
    "run no print": ["seed", "run --select stg --no-print"],
    "run log cache events": ["seed", "run --select stg --log-cache-events"],
    "run fast test edges": [f"{BUILD} --use-fast-test-edges"],
    "run resource report": ["seed", "run --select stg --show-resource-report"],
    "run debug": ["seed", "run --select stg --debug"],
    "compile inline": ["seed", "run --select stg", "compile --inline='select 1 as id'"],
    "compile full refresh": ["seed", "compile --select inc --full-refresh"],
    "list json": ["list --select config.materialized:table"],
    "list exposures": ["list --select exposure:board"],
    "list tests": ["list --resource-type=test --resource-type=unit_test"],
    "list without": ["list --exclude-resource-type=test"],
    "clone full refresh": [BUILD, "clone --state=target --target two --select orders inc",
                           "clone --state=target --target two --select orders --full-refresh"],
    "run-operation without arguments": ["run-operation note --args '{text: a}'"],
}  # fmt: skip
REFUSED = {
    "build no introspect": ["seed", "build --select stg --no-introspect"],
    "source freshness before": ["source freshness"],
    "run bad option": ["run --no-such-option"],
    "run no such selector": ["run --selector nobody"],
    "run no such target": ["run --target nobody"],
    "run no such state": ["run --select state:new --state=nowhere"],
    "run vars that render nothing": ["run --vars '{most: \"{{ nothing\"}' --warn-error --select nowhere+"],
    "run warn error of nothing": ["run --select nowhere --warn-error"],
    "run-operation no such": ["run-operation nobody"],
    "debug no such target": ["debug --target nobody"],
    "build sample of nothing": ["build --sample=nonsense"],
    "test no such type": ["test --resource-type=nobody"],
    "a file single threaded": ["build --single-threaded"],
}
DIFFERENCES = {
    "nothing is selected": ["run --select nowhere+"],
    "nothing failed": [SEED, "retry"],
}
ON_DUCKDB = {"run files", "run outside", "run python", "a file single threaded"}
"""The cases that are of DuckDB only."""
ON_POSTGRES = {"build fail fast", "retry of fail fast", "build single threaded"}
"""Those of PostgreSQL only: dbt-duckdb cannot build with --single-threaded ("Connection already closed!")."""
ENVIRONMENTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "target": ({"DBT_TARGET": "two"}, ["seed"]),
    "engine target": ({"DBT_ENGINE_TARGET": "two"}, ["seed"]),
    "file of a target": ({"SHOP_FILE": "x", "DBT_TARGET": "two"}, ["seed"]),
    "profiles": ({"DBT_PROFILES_DIR": "elsewhere"}, ["seed"]),
    "state": ({"DBT_STATE": "target"}, ["seed", "build --select state:modified raw_orders"]),
    "full refresh": ({"DBT_FULL_REFRESH": "1"}, ["seed", "run --select stg inc"]),
    "fail fast": ({"DBT_FAIL_FAST": "1"}, ["run --select flaky child --vars '{bad: true}'"]),
    "resource types": ({"DBT_RESOURCE_TYPES": "seed"}, ["build"]),
    "warn error": ({"DBT_WARN_ERROR": "1"}, [f"build {WHOLE}"]),
    "home": ({"HOME": "home"}, ["seed"]),
}
LOUDNESS = {
    "DBT_QUIET": "1", "DBT_LOG_FORMAT": "text", "DBT_LOG_LEVEL": "none", "DBT_WRITE_JSON": "0", "DBT_USE_COLORS": "1",
    "DBT_LOG_PATH": "/nowhere", "DBT_DEBUG": "1", "DBT_PRINT": "0", "DBT_LOG_CACHE_EVENTS": "1",
    "DBT_LOG_FORMAT_FILE": "text", "DBT_LOG_LEVEL_FILE": "debug", "DBT_PRINTER_WIDTH": "20",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "1",
}  # fmt: skip
OURS = {"DBT_PROJECT_DIR", "DBT_PROFILES_DIR", "DBT_PROFILE", "DBT_TARGET", "DBT_TARGET_PATH", "DBT_HOST"}


@dataclass(frozen=True)
class Shop:
    """A copy of the project, and of its database.

    Attributes:
        folder: Where the project is.
        address: Its database on PostgreSQL; None where it is a file of DuckDB in the project.
    """

    folder: Path
    address: Address | None

    def write(self) -> Self:
        """Make the project, with a profile in each of the places that dbt looks at."""
        for name, text in (PROJECT | ({} if self.address else DUCKDB_ONLY)).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        self._write_profiles()
        return self

    def _write_profiles(self) -> None:
        for place, name in ((".", "shop"), ("elsewhere", "elsewhere"), ("home/.dbt", "home")):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
            two = f"data/{SHOP_FILE}.duckdb"
            outputs: dict[str, dict[str, Any]] = {
                "dev": {"type": "duckdb", "path": f"{name}.duckdb", "threads": 1},
                "two": {"type": "duckdb", "path": two, "schema": "other", "threads": 2},
            }
            if self.address:
                server = {"type": "postgres", "host": self.address.host, "port": self.address.port}
                server |= {"user": self.address.user, "pass": self.address.password, "dbname": self.address.database}
                outputs = {
                    "dev": server | {"schema": "public" if name == "shop" else name, "threads": 1},
                    "two": server | {"schema": f"other_{SHOP_FILE}", "threads": 2},
                }
            text = json.dumps({"shop": {"target": "dev", "outputs": outputs}})
            (self.folder / place / "profiles.yml").write_text(text, "utf-8")

    def copied(self, folder: Path, address: Address | None) -> Shop:
        """Return a copy of it as it is now."""
        shutil.copytree(self.folder, folder)
        return Shop(folder, address)

    def forget_all_but_parsing(self) -> None:
        """Leave of what was run here only how dbt has parsed the project."""
        for path in (*self.folder.glob("*.duckdb"), *(self.folder / "target").iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "partial_parse.msgpack":
                path.unlink()

    def project(self, line: str, environment: Mapping[str, str], dbt: Path) -> DbtProject:
        """The block: with the database as its target, unless the line or the environment ask for a profile's."""
        fields: dict[str, Any] = {"project_dir": self.folder, "environment": dict(environment) or None, "retry": ONCE}
        fields |= {"executable": dbt}
        if self.address and "--target" not in line and not environment:
            fields |= {"target": Postgres(**self.address.fields(), retry=ONCE), "threads": 1}
        return DbtProject(**fields)

    def content(self) -> dict[str, Any]:
        """What is in its databases and in the files that models make."""
        found: dict[str, Any] = {}
        with contextlib.chdir(self.folder):  # views have relative paths
            for path in sorted(Path().rglob("*.duckdb")):
                with duckdb.connect(str(path), read_only=True) as connection:
                    found |= {f"{path}:{name}": held for name, held in tables_of(connection).items()}
            for path in sorted(Path("data").glob("*.parquet")):
                found[path.name] = duckdb.sql(f"from '{path}'").fetchall()
        if self.address:
            with self.address.connect() as session:
                found |= tables_of(session)
        return found


def tables_of(connection: Any) -> dict[str, Any]:
    """Each table and view with its kind, its columns and its rows, but for the times of the run."""
    found = {}
    query = (
        "select table_schema, table_name, table_type from information_schema.tables "
        "where table_schema not in ('pg_catalog', 'information_schema') order by 1, 2"
    )
    for schema, table, kind in connection.execute(query).fetchall():
        name = f'"{schema}"."{table}"'
        try:
            described = connection.execute(f"select * from {name} limit 0").description
            columns = [column[0] for column in described]
            shown = ", ".join(f'"{column}"' for column in columns if column not in TIMES) or "1"
            rows = connection.execute(f"select {shown} from {name}").fetchall()
        except (duckdb.Error, psycopg.Error) as error:  # a view of what is not there
            columns, rows = [], [type(error).__name__]
        found[f"{schema}.{table}"] = (kind, columns, sorted(map(str, rows)))
    return found


class Shops:
    """Makes copies of the project, two and two alike: one for the command line of dbt, and one for the block.

    Args:
        folder: Where they are made.
        dbt: The command line.
        server: Where their databases are; None for DuckDB.
    """

    def __init__(self, folder: Path, dbt: Path, server: PostgresServer | None) -> None:
        self._folder, self.dbt, self._server = folder, dbt, server
        self._count = 0
        self._after: dict[str, tuple[Shop, Shop]] = {}

    def new(self) -> tuple[Shop, Shop]:
        """Return two that nothing was run in, parsed: that is half of a command's time."""
        return self.after(PARSE)

    def unparsed(self) -> tuple[Shop, Shop]:
        """Return two that nothing was run in, not even dbt's parser."""
        return Shop(self._next(), self._database("theirs")).write(), Shop(self._next(), self._database("mine")).write()

    def after(self, line: str) -> tuple[Shop, Shop]:
        """Return copies of two in which a line was run, once for all who ask for it."""
        if line not in self._after:
            pair = self.unparsed() if line == PARSE else self.new()
            self.compare(pair, line)
            if line == PARSE:
                for shop in pair:
                    shop.forget_all_but_parsing()
            self._after[line] = (self._set_aside(pair[0]), self._set_aside(pair[1]))
        theirs, mine = self._after[line]
        return (
            theirs.copied(self._next(), self._database("theirs", theirs.address)),
            mine.copied(self._next(), self._database("mine", mine.address)),
        )

    def drop(self, pair: tuple[Shop, Shop]) -> None:
        """Remove them."""
        for shop in pair:
            shutil.rmtree(shop.folder.parent)
            if self._server and shop.address:
                self._server.drop_database(shop.address)

    def compare(
        self, pair: tuple[Shop, Shop], line: str, environment: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str]]:
        """Run a line in both, hold the exit code, the statuses and the databases together, and return the first two."""
        theirs, mine = pair
        expected = command_line(self.dbt, theirs, line, environment or {})
        project = mine.project(line, {**(environment or {}), **home(mine, environment or {})}, self.dbt)
        code, statuses = block(project, line)
        assert (code, statuses | (catalogued(mine) if line.startswith("docs") else {})) == expected, line
        assert mine.content() == theirs.content(), line
        return expected

    def _next(self) -> Path:
        self._count += 1
        folder = self._folder / str(self._count) / "shop"
        folder.parent.mkdir()
        return folder

    def _database(self, name: str, template: Address | None = None) -> Address | None:
        """A database of the same name each time: with another one dbt parses the project anew."""
        if not self._server:
            return None
        self._server.drop_database(replace(self._server.address, database=name))
        return self._server.new_database(template, name=name)

    def _set_aside(self, shop: Shop) -> Shop:
        """Let go of the name of its database."""
        if not self._server or not shop.address:
            return shop
        kept = self._server.new_database(shop.address)
        self._server.drop_database(shop.address)
        return replace(shop, address=kept)


@pytest.fixture(scope="module")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with DbtCommand(tmp_path_factory.mktemp("dbt")) as path:
        yield path


@pytest.fixture(scope="module")
def shops_of(
    dbt: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Shops]:
    """The shops of an engine."""
    made: dict[str, Shops] = {}

    def shops(engine: str) -> Shops:
        if engine not in made:
            server = request.getfixturevalue("postgres_server") if engine == "postgres" else None
            made[engine] = Shops(tmp_path_factory.mktemp(engine), dbt, server)
        return made[engine]

    return shops


def command_line(dbt: Path, shop: Shop, line: str, environment: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """The exit code of the command line and its statuses by unique_id."""
    before = {name: stamp(shop.folder, name) for name in ("run_results", "sources")}
    words = shlex.split(line)
    if line.startswith("list"):
        words += ["--output", "json", "--output-keys", "unique_id", "--quiet"]
    environment = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "0", **environment, **home(shop, environment)}
    ran = subprocess.run([dbt, *words], cwd=shop.folder, env=environment, capture_output=True, text=True, check=False)
    code = ran.returncode
    if line.startswith("list"):
        listed = [each for each in ran.stdout.splitlines() if each.startswith("{")]
        return code, {json.loads(each)["unique_id"]: "" for each in listed}
    name = "sources" if line.startswith("source") else "run_results"
    found = catalogued(shop) if line.startswith("docs") else {}
    if stamp(shop.folder, name) == before[name]:
        return code, found
    rows = json.loads((shop.folder / "target" / f"{name}.json").read_text())["results"]
    return code, found | {row["unique_id"]: row["status"] for row in rows}


def catalogued(shop: Shop) -> dict[str, str]:
    """Return the columns of each table in the catalog, which `docs generate` makes."""
    path = shop.folder / "target" / "catalog.json"
    catalog = json.loads(path.read_text()) if path.exists() else {}
    tables = {**catalog.get("nodes", {}), **catalog.get("sources", {})}
    return {f"catalog of {key}": " ".join(table["columns"]) for key, table in tables.items()}


def stamp(folder: Path, name: str) -> int:
    path = folder / "target" / f"{name}.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def home(shop: Shop, environment: Mapping[str, str]) -> dict[str, str]:
    return {"HOME": str(shop.folder / environment["HOME"])} if "HOME" in environment else {}


def block(project: DbtProject, line: str) -> tuple[int | None, dict[str, str]]:
    """The same of DbtProject."""
    command, call, fields = parse(line)
    names = {"list": "ls", "retry": "retry_failed", "debug": "check"}
    method = getattr(project.model_copy(update=fields), names.get(command, command.replace(" ", "_").replace("-", "_")))
    try:
        if command in ("list", "debug"):
            done = method(**call)
            return 0, dict.fromkeys(done, "") if command == "list" else {}
        result = method(**call, raise_on_failure=False)
    except DbtFailedError as error:
        result = error.result
    except ConnectorError:
        return 1 if command == "debug" else 2, {}
    # dbt's own results have no row of a source that could not be read
    nodes = [node for node in result.nodes if (command, node.status) != ("source freshness", "runtime error")]
    return result.exit_code, {node.unique_id: node.status for node in nodes}


def parse(line: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A command line as the command, the arguments of its method, and the fields of the block."""
    command, *words = shlex.split(line)
    if command in ("source", "docs"):
        command += f" {words.pop(0)}"
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, is_given, value = word.partition("=")
            rest = given.setdefault(name, [])
            rest += [value] if is_given else []
        else:
            rest.append(word)
    call: dict[str, Any] = {key: given.pop(f"--{key}") for key in ("select", "exclude") if f"--{key}" in given}
    call |= {key: yaml.safe_load(given.pop(f"--{key}")[0]) for key in ("vars", "args") if f"--{key}" in given}
    call |= {"full_refresh": True} if given.pop("--full-refresh", None) is not None else {}
    one = {"clone": ("state", "selector"), "run-operation": ()}.get(command, ("selector",))
    call |= {key: given.pop(f"--{key}")[0] for key in one if f"--{key}" in given}
    if command == "run-operation":
        call["macro"] = words[0]
    fields: dict[str, Any] = {"target_name": given.pop("--target")[0]} if "--target" in given else {}
    fields |= {"threads": int(given.pop("--threads")[0])} if "--threads" in given else {}
    options = [f"{name}={value}" if value else name for name, values in given.items() for value in values or [""]]
    return command, call | ({"options": options} if options else {}), fields


def run_case(
    shops: Shops, lines: list[str], environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[int, dict[str, str]]:
    """Run the lines in two copies of the project side by side, and return the last exit code and its statuses."""
    monkeypatch.setenv("HOME", str(tmp_path))
    first, *others = lines
    is_shared = bool(others) and not environment and first in (SEED, BUILD)
    pair = shops.after(first) if is_shared else shops.unparsed() if PARSER.search(" ".join(lines)) else shops.new()
    try:
        if "HOME" in environment:
            for shop in pair:
                (shop.folder / "profiles.yml").unlink()
        for line in others if is_shared else lines:
            ended = shops.compare(pair, line, environment)
    finally:
        shops.drop(pair)
    return ended


def engines_of(names: Iterable[str]) -> list[Any]:
    """Each case on each engine that has what it needs."""
    return [
        pytest.param(engine, name, id=f"{engine}-{name}")
        for engine in ENGINES
        for name in names
        if name not in (ON_POSTGRES if engine == "duckdb" else ON_DUCKDB)
    ]


def test_no_variable_hides_what_happened(
    shops_of: Callable[[str], Shops], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the environment says of dbt's log and results, we see both: under dbt's old and new names."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shops = shops_of("duckdb")
    pair = theirs, mine = shops.new()
    expected = command_line(shops.dbt, theirs, WORST, {})
    assert set(expected[1].values()) >= {"success", "pass", "warn", "error", "skipped", "partial success"}
    for name, value in LOUDNESS.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.replace("DBT_", "DBT_ENGINE_"), value)
    assert block(mine.project(WORST, {}, shops.dbt), WORST) == expected
    assert mine.content() == theirs.content()
    shops.drop(pair)


@pytest.mark.thorough
@pytest.mark.parametrize(("engine", "name"), engines_of(CASES))
def test_it_does_what_the_command_line_does(
    shops_of: Callable[[str], Shops], engine: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same exit code, the same status of each node, and the same database afterwards."""
    _, statuses = run_case(shops_of(engine), CASES[name], {}, monkeypatch, tmp_path)
    assert statuses  # the command line did something


@pytest.mark.thorough
@pytest.mark.parametrize(("engine", "name"), engines_of(REFUSED))
def test_it_refuses_what_the_command_line_refuses(
    shops_of: Callable[[str], Shops], engine: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With its exit code, and without a change."""
    code, _ = run_case(shops_of(engine), REFUSED[name], {}, monkeypatch, tmp_path)
    assert code


@pytest.mark.thorough
@pytest.mark.parametrize("name", DIFFERENCES)
def test_where_it_differs_from_the_command_line(shops_of: Callable[[str], Shops], name: str) -> None:
    """What dbt takes for a success, or has no word for, and the block refuses; docs/dbt.md has the reasons."""
    shops = shops_of("duckdb")
    pair = shops.new()
    theirs, mine = pair
    *before, last = DIFFERENCES[name]
    for line in before:
        shops.compare(pair, line)
    assert command_line(shops.dbt, theirs, last, {})[0] == 0
    assert block(mine.project(last, {}, shops.dbt), last) == (2, {})
    assert mine.content() == theirs.content()
    shops.drop(pair)


@pytest.mark.thorough
@pytest.mark.parametrize(("engine", "name"), engines_of(ENVIRONMENTS))
def test_it_takes_the_environment_as_the_command_line_does(
    shops_of: Callable[[str], Shops], engine: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variables of dbt's, and places that count from the project's directory."""
    environment, lines = ENVIRONMENTS[name]
    run_case(shops_of(engine), lines, environment, monkeypatch, tmp_path)


def known_variables() -> list[str]:
    from dbt.cli.params import KNOWN_ENV_VARS

    return sorted({each.old_name or each.name for each in KNOWN_ENV_VARS} - OURS)


VALUES = {
    "DBT_EVENT_TIME_START": "2026-01-01", "DBT_EVENT_TIME_END": "2026-01-03", "DBT_INDIRECT_SELECTION": "cautious",
    "DBT_RESOURCE_TYPES": "model", "DBT_EXCLUDE_RESOURCE_TYPES": "test", "DBT_STATE": "target", "DBT_DEFER": "0",
    "DBT_ARTIFACT_STATE_PATH": "target", "DBT_DEFER_STATE": "target", "DBT_DEFER_TO_STATE": "0",
    "DBT_WARN_ERROR_OPTIONS": "{}", "DBT_SAMPLE": "1 day", "DBT_PARTIAL_PARSE_FILE_PATH": "dbt_project.yml",
    "DBT_PARTIAL_PARSE": "0", "DBT_LOG_FILE_MAX_BYTES": "1000", "DBT_POPULATE_CACHE": "0", "DBT_INTROSPECT": "0",
    "DBT_STATIC_PARSER": "0", "DBT_VERSION_CHECK": "0", "DBT_ENGINE_SQLPARSE": "{}",
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("variable", known_variables())
def test_every_variable_of_dbt(
    shops_of: Callable[[str], Shops], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it changes for the command line it changes for us, and what hides something from us it does not."""
    shops = shops_of("duckdb")
    pair = theirs, mine = shops.after("seed --vars '{bad: true}'")  # with other variables dbt parses anew
    line = "build --select flaky child stg --vars '{bad: true}'"
    value = LOUDNESS.get(variable) or VALUES.get(variable) or "1"
    expected = command_line(shops.dbt, theirs, line, {} if variable in LOUDNESS else {variable: value})
    monkeypatch.setenv(variable, value)
    assert block(mine.project(line, {}, shops.dbt), line) == expected
    assert mine.content() == theirs.content()
    shops.drop(pair)


# Passwords


PARTS = 20
SMALL = {
    "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\n",
    "models/good.sql": "{{ config(materialized='table') }} select i as id from generate_series(1, 123) i",
    "models/bad.sql": "select no_such as id",
    "tests/found.sql": "select * from {{ ref('good') }}",
}
SMALL_STATUSES = {"model.shop.good": "success", "model.shop.bad": "error", "test.shop.found": "fail"}


def check_passwords(tmp_path: Path, dbt: Path, address: Address, passwords: list[str]) -> None:
    folder = tmp_path / "shop"
    for name, text in SMALL.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with psycopg.connect(address.dsn(), autocommit=True) as connection:
        connection.execute("drop role if exists reader; create role reader login; grant all on schema public to reader")
        for password in passwords:
            connection.execute(psycopg.sql.SQL("alter role reader password {}").format(psycopg.sql.Literal(password)))
            target = Postgres(**address.fields() | {"username": "reader", "password": password}, retry=ONCE)
            project = DbtProject(project_dir=folder, target=target, executable=dbt, retry=ONCE)
            result = project.build(raise_on_failure=False)
            assert {node.unique_id: node.status for node in result.nodes} == SMALL_STATUSES, password
            assert result.node("found").failures == 123, password


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(PARTS))
def test_short_and_common_passwords(tmp_path: Path, dbt: Path, pg_database: Address, part: int) -> None:
    """All words of the log's own, and 200 random ones: a test that finds 123 rows fails, whatever the password is."""
    check_passwords(tmp_path, dbt, pg_database, ["123", *passwords()[part::PARTS]])
