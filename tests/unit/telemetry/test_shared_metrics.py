"""Tests for metrics that are combined over several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoomgate_server.telemetry import metrics
from zoomgate_server.telemetry.metrics import Metrics


def run_worker(directory: Path, number: int, *calls: str) -> None:
    """Run a worker that calls methods of the metrics, and wait until the worker exits."""
    code = (
        "from pathlib import Path; from zoomgate_server.telemetry import metrics;"
        f"directory = Path({str(directory)!r}); metrics.share({number}, directory);"
        "worker_metrics = metrics.Metrics('1', [], directory);"
        + ";".join(f"worker_metrics.{call}" for call in calls)
    )
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


def metric_value(directory: Path, name: str) -> str | None:
    """Return the value of a metric over all processes."""
    lines = Metrics("1", [], directory).render().decode().splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")), None)


def test_gauges_are_combined_over_processes(tmp_path: Path) -> None:
    """For each gauge, the values of all processes are combined into their sum, their maximum or the most recent value."""
    run_worker(
        tmp_path,
        1,
        "journal_entries.set(2)",
        "oldest_pending_attempt_seconds.set(7)",
        "token_endpoint_circuit_breaker_open.set(1)",
        "connections.labels('ACTIVE').set(5)",
    )
    run_worker(
        tmp_path,
        2,
        "journal_entries.set(3)",
        "oldest_pending_attempt_seconds.set(4)",
        "token_endpoint_circuit_breaker_open.set(0)",
        "connections.labels('ACTIVE').set(4)",
    )
    assert metric_value(tmp_path, "zoomgate_journal_entries") == "5.0"
    assert metric_value(tmp_path, "zoomgate_oldest_pending_attempt_seconds") == "7.0"
    assert metric_value(tmp_path, "zoomgate_token_endpoint_circuit_breaker_open") == "1.0"
    assert metric_value(tmp_path, 'zoomgate_connections{state="ACTIVE"}') == "4.0"


def test_counters_of_terminated_worker_remain_but_gauges_are_removed(tmp_path: Path) -> None:
    """The counters also remain when a new worker reuses the number of the terminated worker."""
    run_worker(
        tmp_path,
        1,
        "store_errors.inc()",
        "store_errors.inc()",
        "refresh_seconds.observe(0.2)",
        "journal_entries.set(2)",
        "token_endpoint_circuit_breaker_open.set(1)",
    )
    run_worker(tmp_path, 2, "store_errors.inc()", "refresh_seconds.observe(0.4)", "journal_entries.set(3)")
    metrics.drop_gauges(1, tmp_path)
    assert metric_value(tmp_path, "zoomgate_journal_entries") == "3.0"
    assert metric_value(tmp_path, "zoomgate_token_endpoint_circuit_breaker_open") == "0.0"
    run_worker(tmp_path, 1, "store_errors.inc()")
    assert metric_value(tmp_path, "zoomgate_store_errors_total") == "4.0"
    assert metric_value(tmp_path, "zoomgate_refresh_seconds_count") == "2.0"
    assert metric_value(tmp_path, "zoomgate_journal_entries") == "3.0"


MANY_SERIES = """
import sys
from pathlib import Path

import pytest
import grpc
from zoomgate_server.app.metric_labels import new_metrics
from zoomgate_server.rpc import server
from zoomgate_server.telemetry import logs, metrics

logs.configure("info", "json")
directory = Path(sys.argv[1])
metrics.share(1, directory)
created = new_metrics("1", directory)
with (directory / "other").open("wb", buffering=0) as other:
    try:
        while "fill" in sys.argv:
            other.write(bytes(4096))
    except OSError:
        pass
for method in (*server.METHODS, "other"):
    observe = created.rpc_observer(method.removeprefix("zoomgate.v1."))
    for code in grpc.StatusCode:
        observe(code.name, 1.0)
for route in range(20):
    for status in range(5):
        created.http_requests.labels(f"/a/long/route/{route}", f"{status}xx").inc()
for state in range(10):
    created.connections.labels(f"STATE_{state}").set(1)
print(created.render().decode())
"""
"""Source code of a worker that creates more time series than a service has, optionally on a full disk."""


def run_on_small_disk(directory: Path, size: str) -> subprocess.CompletedProcess[str]:
    """Run a worker whose metrics are on a disk of a size, which is otherwise full."""
    script = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && exec "$3" -c "$4" "$2" fill'
    result = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            size,
            str(directory),
            sys.executable,
            MANY_SERIES,
        ],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.stderr.startswith(("unshare: ", "mount: ")):
        pytest.skip(result.stderr)
    return result


def test_full_disk_kills_no_worker(tmp_path: Path) -> None:
    """A worker that has started can create all its time series."""
    result = run_on_small_disk(tmp_path, "2m")
    assert result.returncode == 0, result
    assert 'zoomgate_rpc_total{code="OK",method="other"} 1.0' in result.stdout


def test_worker_starts_without_space_for_its_metrics(tmp_path: Path) -> None:
    """The worker logs that its metrics are missing from the combined ones."""
    result = run_on_small_disk(tmp_path, "512k")
    assert result.returncode == 0, result
    assert "metrics.not_shared" in result.stderr
    assert "No space left on device" in result.stderr


def test_all_time_series_fit_into_the_files(tmp_path: Path) -> None:
    """A file that grows would have holes."""
    subprocess.run(
        [sys.executable, "-c", MANY_SERIES, str(tmp_path)],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.db")}
    assert sizes == {f"{name}_1.db": metrics.FILE_BYTES for name in metrics.FILES}
    for path in tmp_path.glob("*.db"):
        assert path.stat().st_blocks * 512 >= metrics.FILE_BYTES
        assert len(path.read_bytes().rstrip(b"\0")) < metrics.FILE_BYTES * 0.7
