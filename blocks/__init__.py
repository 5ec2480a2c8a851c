"""The kit: what every connector is made of."""

from blocks.block import ConnectorBlock, resolve
from blocks.contract import Contract
from blocks.dataset import WriteReport
from blocks.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    MissingDriverError,
    NotFoundError,
    QualityError,
    SchemaError,
    TerminalError,
    ThrottledError,
    TransientError,
    TypeLossError,
    UnsupportedError,
)
from blocks.file_options import CsvOptions
from blocks.load import LoadPlan, LoadReport
from blocks.object_store import ObjectInfo, ObjectStore
from blocks.operation import operation
from blocks.quality import Audit, CheckResult, ChecksFailedError, QualityReport
from blocks.retry import RetryPolicy, retry_if_transient
from blocks.scan import Rejects, Scan
from blocks.warehouse import Warehouse

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "AmbiguousError",
    "Audit",
    "AuthError",
    "CheckResult",
    "ChecksFailedError",
    "ConnectorBlock",
    "ConnectorError",
    "Contract",
    "CsvOptions",
    "InvalidInputError",
    "LoadPlan",
    "LoadReport",
    "MissingDriverError",
    "NotFoundError",
    "ObjectInfo",
    "ObjectStore",
    "QualityError",
    "QualityReport",
    "Rejects",
    "RetryPolicy",
    "Scan",
    "SchemaError",
    "TerminalError",
    "ThrottledError",
    "TransientError",
    "TypeLossError",
    "UnsupportedError",
    "Warehouse",
    "WriteReport",
    "operation",
    "resolve",
    "retry_if_transient",
]
