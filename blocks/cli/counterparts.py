"""What takes the place of each block type of Prefect's collections: one table per type, as data.

The fields are those that prefect-aws 0.7, -gcp 0.6, -azure 0.4, -snowflake 0.28, -sqlalchemy 0.6 and -dbt 0.7 save.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from blocks.base.addresses import is_this_machine


class NoCounterpartError(Exception):
    """A saved block cannot be one of ours; the message says why, and what to do, without a value."""


@dataclass(frozen=True)
class Foreign:
    """A saved block of another collection.

    Attributes:
        slug: Its type.
        name: Its name; None where it is saved within another block.
        data: Its fields; a block within it is a Foreign.
    """

    slug: str
    name: str | None
    data: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Dropped:
    """A field that ours do without.

    Attributes:
        instead: What to do instead; empty where nothing is lost.
        default: The value that needs no mention.
    """

    instead: str = ""
    default: Any = None


@dataclass(frozen=True)
class Changed:
    """A field whose counterpart is not quite the same.

    Attributes:
        name: Our field.
        how: What is different.
    """

    name: str
    how: str


Step: TypeAlias = Callable[[Any], Mapping[str, Any]]
Fields: TypeAlias = "Mapping[str, str | Changed | Dropped | Step | Fields]"
"""What becomes of each field: the name of ours, nothing, what a function makes of its value, or a table for the
fields within it. A field that is not in the table, and not empty, is one that nothing here can stand for."""


@dataclass(frozen=True)
class Counterpart:
    """The type of ours, and what becomes of their fields.

    Attributes:
        slug: Our type.
        fields: What becomes of each field of theirs.
    """

    slug: str
    fields: Fields


Chooser: TypeAlias = Callable[[Mapping[str, Any]], tuple[Counterpart, Mapping[str, Any]]]
"""Finds the counterpart where it depends on the fields, and the fields as its table names them."""


def same(*names: str) -> dict[str, str]:
    """Return the table of fields that keep their names."""
    return {name: name for name in names}


def block_in(data: Mapping[str, Any], name: str) -> Foreign:
    """Return the block that a field holds.

    Raises:
        NoCounterpartError: It holds none.
    """
    value = data.get(name)
    if not isinstance(value, Foreign):
        raise NoCounterpartError(f"its {name} is not a block")
    return value


# --- single fields ---


def client_parameters(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take `aws_client_parameters`; what goes unencrypted to another machine today still does."""
    address = urlsplit(given.get("endpoint_url") or "")
    plain = address.scheme == "http" and not is_this_machine(address.hostname or "")
    return {"aws_client_parameters": given} | ({"allow_http": True} if plain else {})


def account_url(url: str) -> Mapping[str, Any]:
    """Take the URL of a storage account, whose query is a shared access signature."""
    base, _, token = url.partition("?")
    return {"account_url": base.rstrip("/")} | ({"sas_token": token} if token else {})


def snowflake_name(ours: str) -> Step:
    """Take a name as Snowflake reads it: without quotes its case does not matter, with them it does."""

    def taken(name: str) -> Mapping[str, Any]:
        quoted = re.fullmatch(r'"(.+)"', name)
        return {ours: quoted[1] if quoted else name.lower()}

    return taken


def whole_seconds(ours: str) -> Step:
    """Take a number of seconds for a field that has no fractions and begins at 1."""
    return lambda value: {ours: max(1, round(float(value)))}


def cause(text: str) -> Mapping[str, Any]:
    """Take the cause of a run, unless it is the one that prefect-dbt gives by itself."""
    return {} if text.startswith("Triggered via Prefect") else {"cause": text}


# --- one table for each type ---

AWS_CLIENT: Fields = {"aws_client_parameters": client_parameters}
FETCH_SIZE = Dropped("give the number to fetch_many(sql, size=...)", default=1)

LIBPQ: Fields = {
    "host": "host",  # the folder of a socket
    "sslmode": "ssl_mode",
    "ssl": "ssl_mode",  # asyncpg's name for it
    "sslrootcert": "ssl_root_cert",
    "sslcert": "ssl_cert",
    "sslkey": "ssl_key",
    "sslpassword": "ssl_key_password",
    "service": "service",
    "options": "options",
    "connect_timeout": whole_seconds("connect_timeout_s"),
    "timeout": whole_seconds("connect_timeout_s"),
    "command_timeout": "statement_timeout_s",
    "application_name": Dropped("connections are named after the flow run"),
    "keepalives": Dropped(),
    "keepalives_idle": Dropped(),
    "keepalives_interval": Dropped(),
    "keepalives_count": Dropped(),
}
"""What libpq's drivers take: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS"""

MYSQL: Fields = {
    "charset": Dropped(),
    "ssl_ca": "ssl_root_cert",
    "ssl_cert": "ssl_cert",
    "ssl_key": "ssl_key",
    "connect_timeout": whole_seconds("connect_timeout_s"),
}
"""What PyMySQL takes: https://pymysql.readthedocs.io/en/latest/modules/connections.html"""

DATABASES: dict[str, Counterpart] = {
    "mysql": Counterpart(
        "etl-mysql",
        {
            **same("host", "port", "database", "username", "password"),
            "driver": Dropped(),
            "query": MYSQL,
            "connect_args": MYSQL,
            "fetch_size": FETCH_SIZE,
        },
    ),
    "postgresql": Counterpart(
        "etl-postgres",
        {
            **same("host", "port", "database", "username", "password", "schema"),
            "driver": Dropped(),
            "query": LIBPQ,
            "connect_args": LIBPQ,
            "fetch_size": FETCH_SIZE,
        },
    ),
}
"""By SQLAlchemy's name of the dialect."""
SQLITE = Counterpart("etl-sqlalchemy-connector", {**same("connection_info", "connect_args"), "fetch_size": FETCH_SIZE})

SNOWFLAKE: Fields = {
    "credentials": "credentials",
    "database": snowflake_name("database"),
    "schema": snowflake_name("schema"),
    "warehouse": "warehouse",
    "fetch_size": FETCH_SIZE,
    "poll_frequency_s": Dropped("the driver decides how often it asks", default=1),
}
DBT_TARGET: Fields = {
    "type": Dropped(default="bigquery"),
    "threads": Dropped("give it to etl-dbt-project as threads", default=4),
    "allow_field_overrides": Dropped(default=False),
}
BIGQUERY_TARGET = Counterpart(
    "etl-big-query", {"project": "project", "schema": "dataset", "credentials": "gcp_credentials", **DBT_TARGET}
)
DBT_DATABASES: dict[str, Counterpart] = {
    "duckdb": Counterpart("etl-duckdb", {"path": "path", "schema": Dropped("name tables with it", default="main")}),
    "postgres": Counterpart(
        "etl-postgres",
        {
            **same("host", "port", "password", "schema"),
            "user": "username",
            "pass": "password",
            "dbname": "database",
            "database": "database",
            **LIBPQ,
        },
    ),
}
"""By dbt's name of the adapter, with the fields of its profile."""
DBT_PROJECT = Counterpart(
    "etl-dbt-project",
    {
        **same("project_dir", "profiles_dir", "target", "target_name", "threads"),
        "env": "environment",
        "commands": Dropped("they are calls, such as project.build(select=[...])"),
        "stream_output": Dropped("dbt's log is always the run's log", default=True),
        "log_prefix": Dropped(),
        "shell": Dropped(),
        "extension": Dropped(),
        "overwrite_profiles": Dropped("profiles.yml is never written", default=False),
    },
)


def sqlalchemy(data: Mapping[str, Any]) -> tuple[Counterpart, Mapping[str, Any]]:
    """Find the counterpart of a SQLAlchemy connector by its driver, from a URL or from components."""
    info = data.get("connection_info")
    if isinstance(info, str):
        info = _components(info)
    if not isinstance(info, Mapping) or "driver" not in info:
        raise NoCounterpartError("its connection_info is neither a URL nor components")
    dialect = str(info["driver"]).partition("+")[0]
    dialect = {"postgres": "postgresql", "mariadb": "mysql"}.get(dialect, dialect)
    host = str(info.get("host") or "")
    if dialect == "redshift" or host.endswith((".redshift.amazonaws.com", ".redshift-serverless.amazonaws.com")):
        raise NoCounterpartError("a Redshift needs a bucket to load through: write an [etl-redshift.NAME] and save it")
    if dialect == "sqlite":
        return SQLITE, {**data, "connection_info": info}
    if dialect not in DATABASES:
        raise NoCounterpartError(f"there is no connector for SQLAlchemy's dialect {dialect}")
    return DATABASES[dialect], {**{name: value for name, value in data.items() if name != "connection_info"}, **info}


def _components(url: str) -> dict[str, Any]:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        made = make_url(url)
    except (ArgumentError, ValueError):  # whose words hold the URL
        raise NoCounterpartError("its connection_info is not a URL of SQLAlchemy") from None
    names = ("username", "password", "host", "port", "database")
    return {"driver": made.drivername, "query": dict(made.query), **{name: getattr(made, name) for name in names}}


def postgres_target(data: Mapping[str, Any]) -> tuple[Counterpart, Mapping[str, Any]]:
    """Take a dbt target in PostgreSQL: the database of its connector, in the target's schema."""
    found, database = sqlalchemy(block_in(data, "credentials").data)
    target = {name: value for name, value in data.items() if name != "credentials"}
    return Counterpart(found.slug, {**DBT_TARGET, **found.fields, "type": Dropped(default="postgres")}), {
        **database,
        **target,
    }


def snowflake_target(data: Mapping[str, Any]) -> tuple[Counterpart, Mapping[str, Any]]:
    """Take a dbt target in Snowflake: that of its connector, in the target's schema if it has one."""
    target = {name: value for name, value in data.items() if name != "connector" and value is not None}
    fields = {**DBT_TARGET, **SNOWFLAKE, "type": Dropped(default="snowflake")}
    return Counterpart("etl-snowflake", fields), {**block_in(data, "connector").data, **target}


def any_target(data: Mapping[str, Any]) -> tuple[Counterpart, Mapping[str, Any]]:
    """Find the counterpart of a dbt target by its adapter; its fields are in `extras`."""
    if (adapter := data.get("type")) not in DBT_DATABASES:
        raise NoCounterpartError(
            f"there is none for a dbt target of type {adapter}: write profiles.yml, and give its folder to "
            "etl-dbt-project as profiles_dir"
        )
    found = DBT_DATABASES[adapter]
    target = {name: value for name, value in data.items() if name != "extras"} | (data.get("extras") or {})
    return Counterpart(found.slug, {**DBT_TARGET, **found.fields, "type": Dropped(default=adapter)}), target


def profile(data: Mapping[str, Any]) -> tuple[Counterpart, Mapping[str, Any]]:
    """Take a dbt profile: the warehouse of its target, which is what a project of ours builds in."""
    found, fields = choose(block_in(data, "target_configs"))
    own = {
        "global_configs": Dropped("give such options to the call: project.build(options=[...])"),
        "target": Dropped("give it to etl-dbt-project as target_name"),
        "name": Dropped(),
    }
    outer = {name: value for name, value in data.items() if name in own}
    return Counterpart(found.slug, {**found.fields, **own}), {**fields, **outer}


def dbt_core_operation(data: Mapping[str, Any]) -> tuple[Counterpart, Mapping[str, Any]]:
    """Take a dbt command: the project, and as its target the warehouse of its profile."""
    given = dict(data)
    folder = PurePath(given.pop("working_dir", None) or ".")
    for name in ("project_dir", "profiles_dir"):
        if given.get(name) or name == "project_dir":
            given[name] = str(folder / (given.get(name) or "."))
    if given.get("dbt_cli_profile"):
        profile = block_in(given, "dbt_cli_profile")
        target = block_in(profile.data, "target_configs")
        given |= {"target": profile, "target_name": profile.data.get("target"), "threads": target.data.get("threads")}
        given.pop("profiles_dir", None)  # of the profiles.yml that it would have written
    given.pop("dbt_cli_profile", None)
    return DBT_PROJECT, given


COUNTERPARTS: dict[str, Counterpart | Chooser] = {
    "aws-credentials": Counterpart(
        "etl-aws-credentials",
        {
            **same("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "profile_name", "region_name"),
            **same("assume_role_arn"),
            **AWS_CLIENT,
            "assume_role_kwargs": {
                "RoleSessionName": "assume_role_session_name",
                "DurationSeconds": "assume_role_duration_s",
                "ExternalId": "assume_role_external_id",
            },
        },
    ),
    "minio-credentials": Counterpart(
        "etl-aws-credentials",
        {
            "minio_root_user": "aws_access_key_id",
            "minio_root_password": "aws_secret_access_key",
            "region_name": "region_name",
            **AWS_CLIENT,
        },
    ),
    "s3-bucket": Counterpart("etl-s3-bucket", same("bucket_name", "credentials", "bucket_folder")),
    "aws-secret": Counterpart("etl-aws-secret", same("secret_name", "aws_credentials")),
    "lambda-function": Counterpart("etl-lambda-function", same("function_name", "qualifier", "aws_credentials")),
    "gluejobblock": Counterpart(
        "etl-glue-job", same("job_name", "arguments", "job_watch_poll_interval", "aws_credentials")
    ),
    "gcp-credentials": Counterpart(
        "etl-gcp-credentials", same("service_account_file", "service_account_info", "project")
    ),
    "gcs-bucket": Counterpart("etl-gcs-bucket", same("bucket", "gcp_credentials", "bucket_folder")),
    "gcpsecret": Counterpart("etl-gcp-secret", same("secret_name", "secret_version", "gcp_credentials")),
    "bigquery-warehouse": Counterpart(
        "etl-big-query", {"gcp_credentials": "gcp_credentials", "fetch_size": FETCH_SIZE}
    ),
    "azure-blob-storage-credentials": Counterpart(
        "etl-azure-blob-storage-credentials",
        {**same("connection_string", "tenant_id", "client_id", "client_secret"), "account_url": account_url},
    ),
    "azure-blob-storage-container": Counterpart(
        "etl-azure-blob-container", same("container_name", "credentials", "base_folder")
    ),
    "snowflake-credentials": Counterpart(
        "etl-snowflake-credentials",
        {
            **same("account", "user", "password", "private_key", "private_key_path", "private_key_passphrase"),
            **same("authenticator", "workload_identity_provider", "token", "endpoint", "role"),
            "autocommit": Dropped("a call commits by itself"),
        },
    ),
    "snowflake-connector": Counterpart("etl-snowflake", SNOWFLAKE),
    "sqlalchemy-connector": sqlalchemy,
    "async-sqlalchemy-connector": sqlalchemy,
    "dbt-cloud-credentials": Counterpart("etl-dbt-cloud-credentials", same("api_key", "account_id", "domain")),
    "dbt-cloud-job": Counterpart(
        "etl-dbt-cloud-job",
        {
            **same("dbt_cloud_credentials", "job_id"),
            "timeout_seconds": Changed(
                "timeout_s", "a run that takes longer is cancelled, unless cancel_on_interrupt=False"
            ),
            "interval_seconds": "job_watch_poll_interval",
            "trigger_job_run_options": {
                "cause": cause,
                **same("git_sha", "git_branch", "schema_override", "dbt_version_override", "threads_override"),
                **same("target_name_override", "generate_docs_override", "timeout_seconds_override"),
                **same("steps_override"),
            },
        },
    ),
    "dbt-core-operation": dbt_core_operation,
    "dbt-cli-profile": profile,
    "dbt-cli-target-configs": any_target,
    "dbt-cli-postgres-target-configs": postgres_target,
    "dbt-cli-snowflake-target-configs": snowflake_target,
    "dbt-cli-bigquery-target-configs": BIGQUERY_TARGET,
}

WITHOUT: dict[str, str] = {
    "dbt-cli-global-configs": "give such options to the call: project.build(options=[...])",
    "azure-container-instance-credentials": "it belongs to a work pool of Prefect, and stays in use there",
    "azure-cosmos-db-credentials": "there is no connector for Azure Cosmos DB",
    "azureml-credentials": "there is no connector for Azure Machine Learning",
    "azuredevops-credentials": "it is how Prefect fetches a flow's code, and stays in use there",
    "azure-devops-repository": "it is how Prefect fetches a flow's code, and stays in use there",
}
"""Types that nothing takes the place of, and why."""


def choose(foreign: Foreign) -> tuple[Counterpart, Mapping[str, Any]]:
    """Return the counterpart of a saved block, and the fields as its table names them.

    Raises:
        NoCounterpartError: There is none.
    """
    if foreign.slug not in COUNTERPARTS:
        raise NoCounterpartError(WITHOUT.get(foreign.slug, f"there is none for a {foreign.slug}"))
    found = COUNTERPARTS[foreign.slug]
    return (found, foreign.data) if isinstance(found, Counterpart) else found(foreign.data)


def translated(counterpart: Counterpart, data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of ours for those of theirs, and what is lost or different.

    >>> translated(COUNTERPARTS["snowflake-connector"], {"database": "Shop", "fetch_size": 50, "schema": None})
    ({'database': 'shop'}, ['fetch_size: give the number to fetch_many(sql, size=...)'])

    Raises:
        NoCounterpartError: A field is set that nothing here can stand for.
    """
    values: dict[str, Any] = {}
    notes: list[str] = []

    def take(fields: Fields, data: Mapping[str, Any], path: str) -> None:
        for name, value in data.items():
            if value is None or value in ("", {}, []):
                continue
            rule = fields.get(name)
            match rule:
                case None:
                    raise NoCounterpartError(f"{counterpart.slug} has nothing for its {path}{name}")
                case str():
                    values[rule] = value
                case Changed():
                    values[rule.name] = value
                    notes.append(f"{path}{name}: {rule.how}")
                case Dropped():
                    if rule.instead and value != rule.default:
                        notes.append(f"{path}{name}: {rule.instead}")
                case Mapping():
                    take(rule, value, f"{path}{name}.")
                case _:
                    values.update(_stepped(rule, value, f"{path}{name}"))

    take(counterpart.fields, data, "")
    return values, notes


def _stepped(step: Step, value: Any, name: str) -> Mapping[str, Any]:
    try:
        return step(value)
    except (TypeError, ValueError, AttributeError):
        raise NoCounterpartError(f"its {name} cannot be read") from None
