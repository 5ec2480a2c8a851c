"""The example of each block type, which Prefect's UI shows beside its form, runs: to its end, or to its service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from blocks import ConnectorBlock, ConnectorError, RetryPolicy
from blocks.cli.saved import block_types
from blocks.credentials import (
    AwsCredentials,
    AzureBlobStorageCredentials,
    DbtCloudCredentials,
    GcpCredentials,
    SnowflakeCredentials,
)

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = "http://127.0.0.1:9"
ONCE = {"retry": RetryPolicy(attempts=1)}
AWS = AwsCredentials(
    aws_access_key_id="key", aws_secret_access_key="secret", region_name="eu-central-1", endpoint_url=NOBODY, **ONCE
)
GCP = GcpCredentials(anonymous=True, project="shop", endpoint_url=NOBODY, **ONCE)
AZURE = AzureBlobStorageCredentials(account_url=f"{NOBODY}/shop", anonymous=True, **ONCE)
SNOWFLAKE = SnowflakeCredentials(
    account="shop", user="u", password="p", host="127.0.0.1", port=9, protocol="http", **ONCE
)
DBT_CLOUD = DbtCloudCredentials(api_key="k", account_id=1, domain="127.0.0.1:9", **ONCE)
# Of each type what makes a block of a service that is not there; a new type goes here.
FIELDS: dict[str, dict[str, Any]] = {
    "etl-aws-parameter": {"parameter_name": "/shop/password", "aws_credentials": AWS},
    "etl-aws-secret": {"secret_name": "shop", "aws_credentials": AWS},
    "etl-azure-blob-container": {"container_name": "shop", "credentials": AZURE},
    "etl-batch-job": {"job_name": "nightly", "job_queue": "q", "job_definition": "d", "aws_credentials": AWS},
    "etl-big-query": {"dataset": "shop", "gcp_credentials": GCP},
    "etl-data-quality": {"suite_name": "orders", "expectations": []},
    "etl-dbt-cloud-job": {"job_id": 1, "dbt_cloud_credentials": DBT_CLOUD},
    "etl-dbt-project": {"project_dir": "nowhere"},
    "etl-ecs-task": {"task_definition": "nightly", "aws_credentials": AWS},
    "etl-gcp-secret": {"secret_name": "shop", "gcp_credentials": GCP},
    "etl-gcs-bucket": {"bucket": "shop", "gcp_credentials": GCP},
    "etl-glue-job": {"job_name": "nightly", "aws_credentials": AWS},
    "etl-http-files": {"url": "http://127.0.0.1:9"},
    "etl-lambda-function": {"function_name": "resize", "aws_credentials": AWS},
    "etl-mysql": {"host": "127.0.0.1", "port": 9, "database": "shop", "username": "u", "password": "p"},
    "etl-postgres": {"host": "127.0.0.1", "port": 9, "database": "shop", "username": "u", "password": "p"},
    "etl-redshift": {
        "host": "127.0.0.1",
        "port": 9,
        "database": "shop",
        "username": "u",
        "password": "p",
        "staging": "etl-memory-files/example",
    },
    "etl-s3-bucket": {"bucket_name": "shop", "credentials": AWS},
    "etl-sftp": {"host": "127.0.0.1", "port": 9, "username": "u", "password": "p"},
    "etl-sqlalchemy-connector": {"connection_info": "sqlite:///shop.db"},
    "etl-snowflake": {"credentials": SNOWFLAKE, "database": "shop", "warehouse": "w"},
}
SAVED: dict[str, ConnectorBlock] = {
    "etl-aws-credentials": AWS,
    "etl-azure-blob-storage-credentials": AZURE,
    "etl-dbt-cloud-credentials": DBT_CLOUD,
    "etl-gcp-credentials": GCP,
    "etl-snowflake-credentials": SNOWFLAKE,
}
SDKS = {
    # What `get_client()` of credentials hands out is the vendor's own client, with the vendor's own errors.
    "etl-azure-blob-storage-credentials": ("azure",),
    "etl-dbt-cloud-credentials": ("httpx",),
    "etl-snowflake-credentials": ("snowflake",),
}
ANSWER_BY_THEMSELVES = {"etl-duckdb", "etl-local-files", "etl-memory-files", "etl-sqlalchemy-connector"}
TYPES = {slug: each for slug, each in block_types().items() if each.__module__.startswith(("blocks.", "connectors."))}


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.sampled(5)
@pytest.mark.parametrize("slug", TYPES)
def test_the_example_of_a_block_type_runs(slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a block that is saved. Where its service is not there, an error of ours says so, and no other."""
    monkeypatch.chdir(tmp_path)
    block = SAVED.get(slug) or TYPES[slug](**FIELDS.get(slug, {}), **ONCE)
    block.save("example", overwrite=True)
    example = TYPES[slug].get_code_example() or ""
    code = re.search(r"```python\n(.*?)```", example, re.DOTALL)
    assert code
    assert 'load("BLOCK_NAME")' in code[1]
    names: dict[str, Any] = {}
    try:
        exec(compile(code[1].replace("BLOCK_NAME", "example"), slug, "exec"), names)  # noqa: S102 (our own)
    except ConnectorError:
        assert slug not in ANSWER_BY_THEMSELVES
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in SDKS.get(slug, ()):
            raise
    loaded = [value for value in names.values() if isinstance(value, TYPES[slug])]
    assert loaded
