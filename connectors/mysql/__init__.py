"""MySQL 8 and MariaDB by PyMySQL: bulk in by INSERT of many rows, bulk out row by row as text."""

from connectors.mysql.block import MySQL

__all__ = ["MySQL"]
