"""Tests for metrics that are combined over several processes."""

import os
import subprocess
import sys
from pathlib import Path

from zoomgate_server.telemetry import metrics
from zoomgate_server.telemetry.metrics import Metrics


def run_worker(directory: Path, number: int, *calls: str) -> None:
    """Run a worker that calls methods of the metrics, and wait until the worker exits."""
    code = (
        f"from pathlib import Path; from zoomgate_server.telemetry import metrics; metrics.share({number});"
        f"worker_metrics = metrics.Metrics('1', [], Path({str(directory)!r}));"
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
