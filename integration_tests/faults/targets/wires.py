"""The proxies of `blocks.testing`, with faults by name."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from blocks.testing import FaultProxy, HttpFaultProxy
from integration_tests.faults.targets.base import Traffic, Wire
from integration_tests.standins.snowflake import SnowflakeProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocks.testing.http_proxy import Fault, Request

SLOW_S, LATE_S = 0.3, 0.05
OBJECT = r"source\.parquet(?!\?projection)"
"""Not what Google Cloud Storage tells about it."""

TCP_FAULTS = ("lose request", "lose answer", "cut request", "cut answer", "silence at commit", "late commit")
HTTP_FAULTS = (
    "503",
    "503 with Retry-After",
    "429",
    "429 with Retry-After",
    "500 after it was done",
    "lose request",
    "lose answer",
    "cut request",
    "sent twice",
    "slow answer",
    "no answer",
    "flipped request",
)
READING_FAULTS = ("cut answer", "flipped answer")


class TcpWire(Wire):
    """PostgreSQL's protocol."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._seen, self._bytes = 0, dict(proxy.bytes_passed)

    def traffic(self) -> Traffic:
        """What has passed since the last call."""
        requests, self._seen = tuple(self.proxy.log[self._seen :]), len(self.proxy.log)
        before, self._bytes = self._bytes, dict(self.proxy.bytes_passed)
        sent, received = (self._bytes[way] - before[way] for way in ("to_server", "to_client"))  # type: ignore[index]
        return Traffic(requests, sent, received)

    def arm(self, fault: str, number: int, traffic: Traffic, moment: float, action: Callable[[], object]) -> None:
        """Let a fault strike."""
        proxy = self.proxy
        proxy.faults_fired.clear()
        match fault:
            case "lose request":
                proxy.drop_request(".*", skip=number)
            case "lose answer":
                proxy.drop_answer_to(".*", skip=number)
            case "cut request":
                proxy.reset_after_bytes(int(moment * traffic.sent), direction="to_server")
            case "cut answer":
                proxy.reset_after_bytes(int(moment * traffic.received))
            case "silence at commit":
                proxy.silence_after("commit")
            case "late commit":
                proxy.hold_back("commit")
            case "call":
                proxy.call_before(".*", action, skip=number)
            case _:
                raise LookupError(fault)

    def fired(self) -> list[str]:
        """What has struck."""
        return list(self.proxy.faults_fired)

    def calm(self) -> None:
        """Let nothing strike any more."""
        if any(struck.startswith("hold back") for struck in self.proxy.faults_fired):
            self.proxy.release()
            time.sleep(LATE_S)  # for what was held back to be run by the server
        self.proxy.clear_faults()

    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return self.proxy.open_connections


class HttpWire(Wire):
    """HTTP."""

    commit = r"^(PUT|POST)"
    claim = r"^GET"
    rows = r"^(PUT|POST)"

    def __init__(self, proxy: HttpFaultProxy) -> None:
        self.proxy = proxy
        self._seen = 0

    def traffic(self) -> Traffic:
        """What has passed since the last call."""
        requests = tuple(f"{method} {target}" for method, target, _ in self.proxy.log[self._seen :])
        self._seen = len(self.proxy.log)
        return Traffic(requests)

    def arm(self, fault: str, number: int, traffic: Traffic, moment: float, action: Callable[[], object]) -> None:
        """Let a fault strike."""
        proxy = self.proxy
        proxy.faults_fired.clear()
        place, with_body = int(moment * 10**12) % 10**6, self._among(traffic, number)
        every: Any = {"method": "[A-Z]+", "path": "", "skip": number}
        bodies: Any = {"method": "PUT|POST", "path": "", "skip": with_body}
        reads = sum(bool(re.match(f"GET .*{OBJECT}", request)) for request in traffic.requests)
        reading: Any = {"method": "GET", "path": OBJECT, "skip": int(moment * reads)}
        arms: dict[str, Callable[[], None]] = {
            "503": lambda: proxy.refuse(**every, status=503),
            "429": lambda: proxy.refuse(**every, status=429),
            "503 with Retry-After": lambda: proxy.refuse(**every, status=503, headers={"Retry-After": "0"}),
            "429 with Retry-After": lambda: proxy.refuse(**every, status=429, headers={"Retry-After": "0"}),
            "500 after it was done": lambda: proxy.deny(**every, status=500),
            "lose request": lambda: proxy.drop_request(**every),
            "lose answer": lambda: proxy.drop_answer(**every),
            "sent twice": lambda: proxy.repeat(**every),
            "slow answer": lambda: proxy.call_before(**every, action=lambda: time.sleep(SLOW_S)),
            "no answer": lambda: proxy.stall(**every),
            "cut request": lambda: proxy.reset_request(**bodies, after_bytes=1 + place % 32),
            "flipped request": lambda: proxy.flip_bit(**bodies, at=place, in_request=True),
            "cut answer": lambda: proxy.reset_answer(**reading, after_bytes=1 + place % 8),
            "flipped answer": lambda: proxy.flip_bit(**reading, at=place),
            "call": lambda: proxy.call_before(**every, action=action),
        }
        arms[fault]()

    def _among(self, traffic: Traffic, number: int) -> int:
        """The number of that request among those with a body."""
        before = [request for request in traffic.requests[:number] if request.startswith(("PUT", "POST"))]
        whole = [request for request in traffic.requests if request.startswith(("PUT", "POST"))]
        return min(len(before), len(whole) - 1) if whole else 0

    def fired(self) -> list[str]:
        """What has struck."""
        return list(self.proxy.faults_fired)

    def calm(self) -> None:
        """Let nothing strike any more."""
        self.proxy.clear_faults()

    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return self.proxy.open_connections


class SnowflakeFaultProxy(SnowflakeProxy):
    """Faults of single requests too, not only of all that repeat one."""

    def take_fault(self, request: Request) -> Fault | None:
        """The fault that strikes at this request."""
        return HttpFaultProxy.take_fault(self, request) or super().take_fault(request)


class SnowflakeWire(HttpWire):
    """Snowflake's driver, which repeats what got no answer: what is lost is lost each time."""

    commit, claim, rows = Wire.commit, Wire.claim, Wire.rows
    proxy: SnowflakeFaultProxy

    def traffic(self) -> Traffic:
        """What has been asked since the last call, repetitions left out."""
        requests = tuple(self.proxy.requests[self._seen :])
        self._seen = len(self.proxy.requests)
        return Traffic(requests)

    def arm(self, fault: str, number: int, traffic: Traffic, moment: float, action: Callable[[], object]) -> None:
        """Let a fault strike."""
        kinds = {"lose answer": "drop answer", "lose request": "refuse", "silence": "stall"}
        if fault in kinds:
            self.proxy.faults_fired.clear()
            self.proxy.lose(kinds[fault], number=len(self.proxy.requests) + number)  # type: ignore[arg-type]
        else:
            super().arm(fault, number, traffic, moment, action)
