"""PostgreSQL 12 and newer: statements by psycopg, bulk in and out by ADBC (binary COPY), SQLAlchemy on request."""

from connectors.postgres.block import Postgres

__all__ = ["Postgres"]
