"""Data Docs: the pages of Great Expectations on one run of a suite, and what of it they show."""

from __future__ import annotations

import mimetypes
import re
from typing import TYPE_CHECKING

from blocks.base.optional import require
from connectors.great_expectations.engine import Outcome, great_expectations, make_suite, new_context
from connectors.great_expectations.results import AGGREGATES

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence
    from pathlib import Path

    from blocks.quality.report import CheckResult
    from blocks.stores.object_store import ObjectStore
    from connectors.great_expectations.engine import Asked

COUNTS = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent")
UNUSED = ".gif"
"""Of the static files of Data Docs, 3 of 4 MB are pictures of a tour that the pages do not show."""


def shown_in_docs(outcome: Outcome, check: CheckResult, *, samples: bool) -> Outcome:
    """What of an outcome the pages show: counts and aggregates, and unexpected values only as `samples`."""
    told = {*COUNTS, "observed_value"} if check.check in AGGREGATES else set(COUNTS)
    result = {name: value for name, value in outcome.result.items() if samples or name in told}
    return Outcome(outcome.success, result, check.detail if outcome.failed_with is not None else None)


def render_docs(
    folder: Path, suite: str, outcomes: Sequence[tuple[Asked, Outcome]], *, run_name: str, started_at: dt.datetime
) -> str | None:
    """Write Data Docs into the folder, and return the path in it of the page of this run; None if that failed.

    Args:
        folder: An empty folder.
        suite: The name of the suite.
        outcomes: How each expectation went. What `result` holds is shown, and nothing else.
        run_name: The name of the run.
        started_at: When it began.
    """
    suite, run_name = _file_name(suite), _file_name(run_name)
    core = require("great_expectations.core.expectation_validation_result", extra="great-expectations")
    configurations = require("great_expectations.expectations.expectation_configuration", extra="great-expectations")
    util = require("great_expectations.util", extra="great-expectations")
    identifiers = require("great_expectations.data_context.types.resource_identifiers", extra="great-expectations")
    run_id = require("great_expectations.core.run_identifier", extra="great-expectations").RunIdentifier(
        run_name, started_at
    )
    backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
    site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": backend}
    index = {"site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}}
    context = new_context(data_docs_sites={"site": {**site, **index}})
    context.suites.add(make_suite(suite, [asked for asked, _ in outcomes]))
    results = [
        core.ExpectationValidationResult(
            success=outcome.success,
            expectation_config=configurations.ExpectationConfiguration(
                type=asked.type, kwargs=dict(asked.kwargs), meta=dict(asked.meta), severity=asked.severity
            ),
            result=util.convert_to_json_serializable(outcome.result),
            exception_info={
                "raised_exception": outcome.failed_with is not None,
                "exception_message": outcome.failed_with,
                "exception_traceback": outcome.failed_with,
            },
        )
        for asked, outcome in outcomes
    ]
    held = sum(result.success for result in results)
    key = identifiers.ValidationResultIdentifier(identifiers.ExpectationSuiteIdentifier(suite), run_id, "data")
    context.validation_results_store.set(
        key,
        core.ExpectationSuiteValidationResult(
            success=held == len(results),
            results=results,
            suite_name=suite,
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": held,
                "unsuccessful_expectations": len(results) - held,
                "success_percent": 100 * held / len(results) if results else None,
            },
            meta={"run_id": run_id, "great_expectations_version": great_expectations().__version__},
        ),
    )
    context.build_data_docs()
    pages = (folder / "validations").rglob("*.html")
    return next((path.relative_to(folder).as_posix() for path in pages), None)


def upload_docs(folder: Path, bucket: ObjectStore, prefix: str, page: str) -> str:
    """Upload the pages, the index last, and return where the page of this run is."""
    prefix = f"{prefix.strip('/')}/".removeprefix("/")
    there = {info.key for listed in bucket.objects.list(f"{prefix}static") for info in listed}
    files = {f"{prefix}{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}
    wanted = [key for key in files if not key.endswith(UNUSED) and key not in there]
    for key in sorted(wanted, key=lambda key: (key == f"{prefix}index.html", "/static/" not in f"/{key}", key)):
        media_type = mimetypes.guess_type(key)[0]
        bucket.write_path(key, files[key].read_bytes(), content_type=media_type)
    return bucket.uri(prefix + page)


def _file_name(text: str) -> str:
    """The text as the pages' file names take it."""
    return re.sub(r"[^\w.=+-]+", "_", text)
