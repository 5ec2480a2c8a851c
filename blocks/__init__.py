"""The kit: what every connector is made of."""

import etl_blocks.ours  # noqa: F401 (its import says what is wrong where `connectors` is not ours)
from blocks.arrow.parts import StagedPart
from blocks.arrow.rejects import Rejects
from blocks.arrow.scan import Scan
from blocks.base.artifacts import keep_markdown
from blocks.base.block import ConnectorBlock, resolve
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    AuthError,
    ConnectorError,
    DamagedError,
    InvalidInputError,
    JobFailedError,
    MissingDriverError,
    NoSuchStoreError,
    NotFoundError,
    NotStartedError,
    ObjectExistsError,
    ObjectNotFoundError,
    QualityError,
    SchemaError,
    TerminalError,
    ThrottledError,
    TransientError,
    TypeLossError,
    UnsupportedError,
)
from blocks.base.operation import operation
from blocks.base.outcome import collect, conclude, scheduled_day
from blocks.base.parameter import Day, Saved
from blocks.base.retry import RetryPolicy, retry_if_transient
from blocks.files.options import CsvOptions, JsonOptions, ParquetOptions
from blocks.jobs.run import JobStatus
from blocks.quality.contract import Contract
from blocks.quality.report import Audit, CheckResult, ChecksFailedError, QualityReport
from blocks.stores.dataset import WriteReport
from blocks.stores.info import ObjectInfo
from blocks.stores.newest import newest_day
from blocks.stores.object_store import ObjectStore
from blocks.stores.readable_store import ReadableStore
from blocks.warehouses.history import LoadHistory
from blocks.warehouses.load import LoadPlan, LoadReport
from blocks.warehouses.warehouse import Warehouse

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
    "DamagedError",
    "Day",
    "InvalidInputError",
    "JobFailedError",
    "JobStatus",
    "JsonOptions",
    "LoadHistory",
    "LoadPlan",
    "LoadReport",
    "MissingDriverError",
    "NoSuchStoreError",
    "NotFoundError",
    "NotStartedError",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectStore",
    "ParquetOptions",
    "QualityError",
    "QualityReport",
    "ReadableStore",
    "Rejects",
    "RetryPolicy",
    "Saved",
    "Scan",
    "SchemaError",
    "StagedPart",
    "TerminalError",
    "ThrottledError",
    "TransientError",
    "TypeLossError",
    "UnsupportedError",
    "Warehouse",
    "WriteReport",
    "collect",
    "conclude",
    "keep_markdown",
    "newest_day",
    "operation",
    "resolve",
    "retry_if_transient",
    "scheduled_day",
]
