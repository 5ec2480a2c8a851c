"""Databases that SQLAlchemy has a dialect for and that are no block of their own here, SQLite among them."""

from connectors.sqlalchemy.block import SqlAlchemyConnector
from connectors.sqlalchemy.components import AsyncDriver, ConnectionComponents, SyncDriver
from connectors.sqlalchemy.rows import Executed, Row

__all__ = ["AsyncDriver", "ConnectionComponents", "Executed", "Row", "SqlAlchemyConnector", "SyncDriver"]
