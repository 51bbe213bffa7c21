"""Tests for OpenTelemetry with real processes: optional packages, workers and the shutdown."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crash.cluster import OK, StoreKind, cluster
from support.otlp_receiver import ONLY_AT_EXIT, otlp_receiver
from zoomgate.v1 import auth_service_pb2 as auth

USER = "user@example.com"


def run_without_packages(folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start the service, in whose processes the packages of OpenTelemetry cannot be imported."""
    (folder / "opentelemetry.py").write_text("raise ModuleNotFoundError(name='opentelemetry')\n")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("ZOOMGATE_", "OTEL_"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "zoomgate_server", "run", "--simulator-listen", "127.0.0.1:0"],
        cwd=folder,
        env=inherited
        | {"ZOOMGATE_LISTEN": "127.0.0.1:0", "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0"}
        | {"PYTHONPATH": str(folder), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("signal_name", ["TRACES", "METRICS"])
def test_enabled_without_the_packages_does_not_start(tmp_path: Path, workers: str, signal_name: str) -> None:
    """The error names the extra to install."""
    variables = {f"OTEL_{signal_name}_EXPORTER": "otlp", "ZOOMGATE_WORKERS": workers}
    with run_without_packages(tmp_path, **variables) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "pip install 'zoomgate-server[opentelemetry]'" in errors
    assert "Traceback" not in errors


def test_disabled_needs_no_packages(tmp_path: Path) -> None:
    with run_without_packages(tmp_path) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("zoomgate: ready ") for line in lines)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


async def test_metrics_of_workers_are_exported_once(tmp_path: Path) -> None:
    """The supervisor exports the sums, which include workers that were replaced. Each worker exports its own spans."""
    async with otlp_receiver() as receiver, cluster(StoreKind.SQLITE, tmp_path, ["user"]) as servers:
        await servers.connect([USER])
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **ONLY_AT_EXIT}
        server = await servers.start("one", workers=2, environ=environ)
        request = auth.GetTokenRequest(user_email=USER)
        for _ in range(10):
            assert await server.call_on_new_connection("GetToken", request) == OK
        await server.close()
    calls = receiver.value("zoomgate_rpc_total", method="AuthService.GetToken", code="OK")
    assert calls == receiver.value("zoomgate_rpc_seconds", method="AuthService.GetToken") == 10
    assert sum(span.name == "zoomgate.v1.AuthService/GetToken" for span in receiver.spans) == 10


async def test_unreachable_collector_does_not_delay_the_exit(tmp_path: Path) -> None:
    """The process exits although the collector accepts connections and never responds."""
    async with cluster(StoreKind.SQLITE, tmp_path, ["user"]) as servers:
        await servers.connect([USER])
        with socket.create_server(("127.0.0.1", 0)) as collector:
            environ = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
                **ONLY_AT_EXIT,
            }
            server = await servers.start("one", environ=environ)
            assert await server.token(USER) == OK
            await server.close()
    assert server.process.returncode == 0
