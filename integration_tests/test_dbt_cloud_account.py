"""DbtCloudJob on a real account, where the environment names a job: see README.md."""

from __future__ import annotations

import json
import os
import uuid

import pytest

from blocks.credentials.dbt_cloud import DbtCloudCredentials
from connectors.dbt_cloud import DbtCloudJob

ACCOUNT = json.loads(os.environ.get("ETL_TEST_DBT_CLOUD", "{}"))


@pytest.mark.skipif(not ACCOUNT, reason="no ETL_TEST_DBT_CLOUD")
def test_a_token_is_one_run() -> None:
    """A job that is started twice with one token runs once, to its end, and its artifacts can be had."""
    job_id = ACCOUNT.pop("job_id")
    job = DbtCloudJob(dbt_cloud_credentials=DbtCloudCredentials(**ACCOUNT), job_id=job_id, cause="A test of etl-blocks")
    assert job.check()
    token = uuid.uuid4().hex
    run, same = job.trigger(token=token), job.trigger(token=token)
    assert run.run_id == same.run_id
    run.wait_for_completion()
    assert run.fetch_result().outcome == "succeeded"
    assert "run_results.json" in run.artifacts()
