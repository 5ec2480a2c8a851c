"""The address of a database: a URL of SQLAlchemy, or its components."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from blocks.base.optional import require


class SyncDriver(Enum):
    """Drivers, by the names that prefect-sqlalchemy has for them."""

    POSTGRESQL_PSYCOPG2 = "postgresql+psycopg2"
    POSTGRESQL_PG8000 = "postgresql+pg8000"
    POSTGRESQL_PSYCOPG2CFFI = "postgresql+psycopg2cffi"
    POSTGRESQL_PYPOSTGRESQL = "postgresql+pypostgresql"
    POSTGRESQL_PYGRESQL = "postgresql+pygresql"
    MYSQL_MYSQLDB = "mysql+mysqldb"
    MYSQL_PYMYSQL = "mysql+pymysql"
    MYSQL_MYSQLCONNECTOR = "mysql+mysqlconnector"
    MYSQL_CYMYSQL = "mysql+cymysql"
    MYSQL_OURSQL = "mysql+oursql"
    MYSQL_PYODBC = "mysql+pyodbc"
    SQLITE_PYSQLITE = "sqlite+pysqlite"
    SQLITE_PYSQLCIPHER = "sqlite+pysqlcipher"
    ORACLE_CX_ORACLE = "oracle+cx_oracle"
    ORACLE_ORACLEDB = "oracle+oracledb"
    MSSQL_PYODBC = "mssql+pyodbc"
    MSSQL_MXODBC = "mssql+mxodbc"
    MSSQL_PYMSSQL = "mssql+pymssql"


class AsyncDriver(Enum):
    """Drivers for an event loop, by the names that prefect-sqlalchemy has for them."""

    POSTGRESQL_ASYNCPG = "postgresql+asyncpg"
    SQLITE_AIOSQLITE = "sqlite+aiosqlite"
    MYSQL_ASYNCMY = "mysql+asyncmy"
    MYSQL_AIOMYSQL = "mysql+aiomysql"
    ORACLE_ORACLEDB_ASYNC = "oracle+oracledb_async"


INSTEAD_OF_ASYNC = {
    "postgresql+asyncpg": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
    "mysql+asyncmy": "mysql+pymysql",
    "mysql+aiomysql": "mysql+pymysql",
    "oracle+oracledb_async": "oracle+oracledb",
}
"""Each call runs in a thread, awaited or not, so that the driver is the one without an event loop."""


class ConnectionComponents(BaseModel):
    """The parts of a URL of SQLAlchemy, as prefect-sqlalchemy names them."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    driver: str = Field(description="Dialect and driver, such as sqlite+pysqlite or mysql+pymysql; or a SyncDriver.")
    database: str | None = Field(default=None, description="Name of the database; with SQLite the path of its file.")
    username: str | None = Field(default=None, description="User to log in as.")
    password: SecretStr | None = Field(default=None, description="Password of the user.")
    host: str | None = Field(default=None, description="Host name or address of the server.")
    port: int | None = Field(default=None, description="Port of the server. Defaults to the driver's.")
    query: dict[str, str] | None = Field(default=None, description="Further settings of the driver, as in a URL.")

    @field_validator("driver", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return value.value if isinstance(value, Enum) else value

    @property
    def backend(self) -> str:
        """SQLAlchemy's name of the dialect, such as sqlite or mysql."""
        return self.driver.partition("+")[0]

    def create_url(self) -> Any:
        """Return the `sqlalchemy.URL`, with a driver that needs no event loop."""
        return require("sqlalchemy", extra="sqlalchemy").URL.create(
            INSTEAD_OF_ASYNC.get(self.driver, self.driver),
            username=self.username,
            password=self.password.get_secret_value() if self.password else None,
            host=self.host,
            port=self.port,
            database=self.database,
            query=self.query or {},
        )


URL = re.compile(
    r"(?P<driver>[\w+]+)://"
    r"(?:(?P<username>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<ip>[^/?]+)\]|(?P<host>[^/:?]+))?(?::(?P<port>\d+))?"
    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?"
)


def components(url: str) -> dict[str, Any]:
    """Return the components of a URL of SQLAlchemy, whose user and password are quoted and whose database is not.

    >>> components("sqlite:////srv/shop.db")["database"], components("mysql+pymysql://u:a%40b@h:3306/d")["password"]
    ('/srv/shop.db', 'a@b')

    Raises:
        ValueError: It is none; the message does not show it.
    """
    found = URL.fullmatch(url)
    if found is None:
        raise ValueError(
            "is a URL of SQLAlchemy, such as sqlite:////srv/shop.db or mysql+pymysql://user:password@host/database"
        )
    username, password, query = found["username"], found["password"], found["query"]
    return {
        "driver": found["driver"],
        "username": unquote(username) if username else None,
        "password": unquote(password) if password else None,
        "host": found["ip"] or found["host"],
        "port": int(found["port"]) if found["port"] else None,
        "database": found["database"] or None,
        "query": dict(parse_qsl(query)) if query else None,
    }
