"""Benchmark of invalid requests to `/webhooks/zoom`: the rejection rate of a service on one core that also serves calls."""

import re
import secrets
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.process_stats import processor_seconds
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc

CONNECTIONS = 16
GOAL = 2000.0
"""Goal for rejections per second of the service's processor time. Other processes on the machine do not affect this ratio."""

_LARGE = 64 * 1024
_KINDS = (
    ("without a signature", 300, ""),
    ("with a wrong signature", 300, "0"),
    ("with a wrong signature, 64 KiB", _LARGE, "f"),
)


@dataclass(frozen=True, slots=True)
class GarbageResult:
    """The result for one kind of invalid request.

    Attributes:
        kind: Description of the invalid requests.
        rejected: Rejections per second.
        efficiency: Rejections per second of the service's processor time.
        calls: Successful gRPC calls per second of one caller that makes one call at a time.
        milliseconds: Median duration of these calls.
        idle_milliseconds: Median duration of such calls while no invalid requests are sent.
        goal: Goal for `efficiency`. 0 for large bodies, which have no goal, since their transfer costs more than their rejection.
    """

    kind: str
    rejected: float
    efficiency: float
    calls: float
    milliseconds: float
    idle_milliseconds: float
    goal: float


def measure(
    address: str,
    http: str,
    process: int,
    key: str,
    user: str,
    directory: Path,
    *,
    seconds: int,
    prefix: Sequence[str],
) -> list[GarbageResult]:
    """Post each kind of invalid request for `seconds` seconds.

    Args:
        address: HOST:PORT of the gRPC server.
        http: HOST:PORT of the HTTP server.
        process: Process ID of the service.
        key: Key of a caller that is allowed to receive the user's token.
        user: A connected user.
        directory: Directory for temporary files.
        seconds: Duration for each kind.
        prefix: Command prefix that pins the load generator to a separate core.
    """
    _, idle_milliseconds = _call_repeatedly(address, key, user, 1.0)
    results = []
    for kind, size, digit in _KINDS:
        body = directory / "garbage"
        body.write_bytes(secrets.token_bytes(size))
        headers = ["-Hcontent-type: application/json"]
        if digit:
            headers += [f"-Hx-zm-request-timestamp: {int(time.time())}", f"-Hx-zm-signature: v0={digit * 64}"]
        used = processor_seconds(process)
        load = subprocess.Popen(
            [
                *prefix,
                "h2load",
                "--h1",
                f"-D{seconds}",
                f"-c{CONNECTIONS}",
                "-t1",
                f"-d{body}",
                *headers,
                f"http://{http}/webhooks/zoom",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(0.5)  # h2load starts within this time, and continues until after the last call
        calls, milliseconds = _call_repeatedly(address, key, user, seconds - 1)
        output, _ = load.communicate()
        used = processor_seconds(process) - used
        match = re.search(r"status codes: 0 2xx, 0 3xx, (\d+) 4xx, 0 5xx", output)
        assert match is not None, output
        count = int(match.group(1))
        results.append(
            GarbageResult(
                kind,
                count / seconds,
                count / used,
                calls,
                milliseconds,
                idle_milliseconds,
                0.0 if size == _LARGE else GOAL,
            )
        )
    return results


def _call_repeatedly(address: str, key: str, user: str, seconds: float) -> tuple[float, float]:
    """Call GetToken repeatedly. Return the calls per second and the median duration in milliseconds."""
    durations = []
    request = auth_service_pb2.GetTokenRequest(user_email=user)
    with grpc.insecure_channel(address) as channel:
        method = auth_service_pb2_grpc.AuthServiceStub(channel).GetToken
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            method(request, metadata=(("authorization", f"Bearer {key}"),), timeout=10)
            durations.append(time.perf_counter() - start)
    return len(durations) / seconds, statistics.median(durations) * 1000
