"""What Google's clients wait for an answer: as long as the block says, whatever they would wait by themselves."""

from __future__ import annotations

from typing import Any

from blocks.base.optional import require


def limit_silence(session: Any, read_timeout_s: float, *, connections: int, extra: str) -> None:
    """Have a `requests` session wait no longer than that for an answer, or a byte of it.

    BigQuery's client, for one, gives a query's results 120 s at least.

    Args:
        session: The session of a client. One that logs in by a certificate of its own stays as it is.
        read_timeout_s: The longest silence.
        connections: How many connections stay open for the next request.
        extra: The extra that installs `requests`.
    """
    if session.is_mtls:
        return
    adapters = require("requests.adapters", extra=extra)

    class Adapter(adapters.HTTPAdapter):  # type: ignore[misc, name-defined]
        def send(self, request: Any, stream: bool = False, timeout: Any = None, **options: Any) -> Any:
            connect_s, read_s = timeout if isinstance(timeout, tuple) else (timeout, timeout)
            limits = (connect_s, read_timeout_s if read_s is None else min(read_s, read_timeout_s))
            return super().send(request, stream=stream, timeout=limits, **options)

    for scheme in ("https://", "http://"):
        session.mount(scheme, Adapter(pool_maxsize=connections))
