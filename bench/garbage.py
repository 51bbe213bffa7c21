"""Garbage at `/webhooks/zoom`: how much of it a service on one core refuses, while it goes on answering calls."""

import re
import secrets
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.processes import processor_seconds
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc

CONNECTIONS = 16
GOAL = 2000.0
"""Refusals in a second of the service's processor time, which others on the machine do not change; the calls meanwhile are in that time."""

_LARGE = 64 * 1024
_KINDS = (
    ("without a signature", 300, ""),
    ("wrongly signed", 300, "0"),
    ("wrongly signed, 64 KiB", _LARGE, "f"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What one kind of garbage did.

    Attributes:
        kind: What it was.
        refused: Refusals a second.
        efficiency: Refusals in a second of the service's processor time.
        calls: Calls a second that one caller got answered meanwhile, one after the other; every one ended well.
        milliseconds: Median of their durations.
        alone: The same without garbage.
        goal: Of the efficiency; 0 if it is only reported, as for bodies that cost more to carry than to refuse.
    """

    kind: str
    refused: float
    efficiency: float
    calls: float
    milliseconds: float
    alone: float
    goal: float


def measure(
    address: str,
    http: str,
    process: int,
    key: str,
    user: str,
    folder: Path,
    *,
    seconds: int,
    prefix: Sequence[str],
) -> list[Found]:
    """Throw each kind for some seconds.

    Args:
        address: HOST:PORT of gRPC.
        http: HOST:PORT of the HTTP server.
        process: Id of the service's process.
        key: Of a caller who may get the token of the user.
        user: Who is connected.
        folder: For files.
        seconds: How long, for each kind.
        prefix: Keeps the load on a core of its own.
    """
    _, alone = _calls(address, key, user, 1.0)
    found = []
    for kind, size, digit in _KINDS:
        body = folder / "garbage"
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
        time.sleep(0.5)  # h2load has begun then, and goes on beyond the calls
        calls, milliseconds = _calls(address, key, user, seconds - 1)
        output, _ = load.communicate()
        used = processor_seconds(process) - used
        refused = re.search(r"status codes: 0 2xx, 0 3xx, (\d+) 4xx, 0 5xx", output)
        assert refused is not None, output
        count = int(refused.group(1))
        found.append(
            Found(
                kind,
                count / seconds,
                count / used,
                calls,
                milliseconds,
                alone,
                0.0 if size == _LARGE else GOAL,
            )
        )
    return found


def _calls(address: str, key: str, user: str, seconds: float) -> tuple[float, float]:
    """Call again and again; gives calls a second and the median duration in milliseconds."""
    durations = []
    request = auth_service_pb2.GetTokenRequest(user_email=user)
    with grpc.insecure_channel(address) as channel:
        method = auth_service_pb2_grpc.AuthServiceStub(channel).GetToken
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            method(request, metadata=(("authorization", f"Bearer {key}"),), timeout=10)
            durations.append(time.perf_counter() - start)
    return len(durations) / seconds, statistics.median(durations) * 1000
