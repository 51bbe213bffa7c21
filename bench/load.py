"""Load on one RPC of one server: processor time per call, and calls per second."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.process_stats import processor_seconds
from bench.server_process import LOAD_CORE, pin_prefix

CONNECTIONS, STREAMS = 4, 16
WORKER_CONNECTIONS, WORKER_STREAMS = (
    16,
    4,
)  # more connections, because the kernel distributes connections, not calls, among the workers


@dataclass(frozen=True, slots=True)
class Target:
    """One RPC of one server.

    Attributes:
        address: HOST:PORT.
        process: ID of the server's process.
        path: Path of the RPC.
        request: The serialized request.
        key: The caller's key, which the baseline ignores.
        certificate: PEM file of the server's certificate, or None without TLS.
    """

    address: str
    process: int
    path: str
    request: bytes
    key: str
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """The result of load on a target.

    Attributes:
        rate: Calls per second.
        microseconds: Processor time of the server per call. Unlike the rate, it hardly depends on other load on the machine.
    """

    rate: float
    microseconds: float


def load(target: Target, calls: int, directory: Path, *, every_core: bool = False) -> Load:
    """Generate load on a target. Every response must have HTTP status 200.

    Args:
        target: The RPC to call.
        calls: Number of calls.
        directory: Directory for temporary files.
        every_core: Use all cores, and distribute the same number of concurrent calls over more connections.
    """
    connections, streams = (WORKER_CONNECTIONS, WORKER_STREAMS) if every_core else (CONNECTIONS, STREAMS)
    body = directory / "request"
    body.write_bytes(b"\0" + len(target.request).to_bytes(4, "big") + target.request)
    command = [
        *([] if every_core else pin_prefix(LOAD_CORE)),
        "h2load",
        f"-n{calls}",
        f"-c{connections}",
        f"-m{streams}",
        "-t1",
        f"-d{body}",
        "-Hcontent-type: application/grpc",
        "-Hte: trailers",
        f"-Hauthorization: Bearer {target.key}",
        f"{'https' if target.certificate else 'http'}://{target.address}{target.path}",
    ]
    before = processor_seconds(target.process)
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = processor_seconds(target.process) - before
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", output)
    assert rate is not None, output
    assert f"{calls} succeeded, 0 failed, 0 errored" in output, output
    return Load(float(rate.group(1)), used / calls * 1e6)


def call(target: Target) -> bytes:
    """Call a target once; raise an error if the call fails, which the load generator would not report."""
    with open_channel(target) as channel:
        method: Any = channel.unary_unary(target.path)
        response: bytes = method(
            target.request, metadata=(("authorization", f"Bearer {target.key}"),), timeout=10
        )
    return response


def open_channel(target: Target) -> grpc.Channel:
    """Open a channel to a target."""
    if target.certificate is None:
        return grpc.insecure_channel(target.address)
    credentials = grpc.ssl_channel_credentials(target.certificate.read_bytes())
    return grpc.secure_channel(target.address, credentials)
