"""What is asked of dbt Cloud for one job: answers, pages, downloads, and words made safe.

https://docs.getdbt.com/dbt-cloud/api-v2
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from blocks.base.errors import InvalidInputError, TransientError
from blocks.base.masking import hide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from blocks.credentials.dbt_cloud import DbtCloudCredentials

MAY_RUN = "a permission set that may run jobs of the project, such as Job Runner or Job Admin"
MAY_SEE = "a permission set that may see jobs of the project, such as Job Viewer or Job Admin"

PAGE = 100
"""The longest page: https://docs.getdbt.com/docs/dbt-versions/dbt-cloud-release-notes"""
RUNS_LOOKED_AT = 1_000


@dataclass(frozen=True)
class Api:
    """The API of dbt Cloud, as one job uses it.

    Attributes:
        credentials: The token, and the account that it belongs to.
        job_id: The number of the job.
        name: What messages call the job.
    """

    credentials: DbtCloudCredentials
    job_id: int
    name: str

    def ask(
        self,
        method: str,
        path: str,
        verb: str,
        place: str,
        permission: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, str | int] | None = None,
        once: bool = False,
    ) -> Any:
        """Send a request and return the `data` of the answer; see `DbtCloudCredentials.ask`."""
        return self.credentials.ask(
            method, path, verb=verb, place=place, permission=permission, json=body, params=params, once=once
        )

    def get(self, run_id: str, **params: str | int) -> dict[str, Any]:
        """Return a run, as dbt Cloud describes it."""
        place = f"{self.name} ({run_id})"
        run = self.ask("GET", f"runs/{run_id}/", "look at", place, MAY_SEE, params=params)
        return cast("dict[str, Any]", run)

    def pages(self, limit: int = RUNS_LOOKED_AT, **params: str) -> Iterator[list[dict[str, Any]]]:
        """Yield the runs of the job page by page, the latest first, at most so many."""
        place, length = f"the runs of {self.name}", min(limit, PAGE)
        for offset in range(0, limit, length):
            order: dict[str, str | int] = {"job_definition_id": self.job_id, "order_by": "-id"}
            query = order | {"limit": length, "offset": offset} | params
            page = self.ask("GET", "runs/", "list", place, MAY_SEE, params=query)
            yield page
            if len(page) < length:
                return

    def read(self, folder: str, path: str, params: dict[str, str | int]) -> Any:
        """Return an artifact's content: the value of a .json, the bytes of anything else."""
        content = io.BytesIO()
        self.download(folder, path, content, params)
        if not path.endswith(".json"):
            return content.getvalue()
        try:
            return json.loads(content.getvalue())
        except ValueError:
            raise TransientError(f"Could not read {path} of {self.name}: it is not valid JSON. Try again.") from None

    def download(self, folder: str, path: str, into: IO[bytes], params: dict[str, str | int]) -> None:
        """Write the artifact's bytes to `into`."""
        self.credentials.download(
            folder + _quoted(path), into, place=f"{path} of {self.name}", permission=MAY_SEE, params=params
        )

    def safe(self, text: str) -> str:
        """Return words of dbt Cloud without the token, without colors, and without what looks like a secret."""
        return hide(text, self.credentials)


def _quoted(path: str) -> str:
    """The path of an artifact as part of an address.

    Raises:
        InvalidInputError: It leads elsewhere.
    """
    parts = path.split("/")
    if not path or {"", ".", ".."} & set(parts):
        raise InvalidInputError(f"{path!r:.100} is not the path of an artifact; artifacts() lists them.")
    return "/".join(quote(part, safe="") for part in parts)
