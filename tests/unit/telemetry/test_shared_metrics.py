"""Metrics of several processes in one folder, as `/metrics` tells them."""

import os
import subprocess
import sys
from pathlib import Path

from zoomgate_server.telemetry import metrics
from zoomgate_server.telemetry.metrics import Metrics


def process(folder: Path, number: int, *said: str) -> None:
    """Run a process with that number which says things and ends."""
    code = (
        f"from pathlib import Path; from zoomgate_server.telemetry import metrics; metrics.share({number});"
        f"told = metrics.Metrics('1', [], Path({str(folder)!r}));" + ";".join(f"told.{call}" for call in said)
    )
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


def shown(folder: Path, name: str) -> str | None:
    """The value of a metric over all processes."""
    lines = Metrics("1", [], folder).render().decode().splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")), None)


def test_gauges_are_told_as_they_are_meant(tmp_path: Path) -> None:
    """What belongs to each process is added up, of states the worst is told, and what all of them see is told once."""
    process(
        tmp_path,
        1,
        "journal_entries(2)",
        "pending_age(7)",
        "circuit_breaker_open(True)",
        "connections({'ACTIVE': 5})",
    )
    process(
        tmp_path,
        2,
        "journal_entries(3)",
        "pending_age(4)",
        "circuit_breaker_open(False)",
        "connections({'ACTIVE': 4})",
    )
    assert shown(tmp_path, "zoomgate_journal_entries") == "5.0"
    assert shown(tmp_path, "zoomgate_oldest_pending_attempt_seconds") == "7.0"
    assert shown(tmp_path, "zoomgate_token_endpoint_circuit_breaker_open") == "1.0"
    assert shown(tmp_path, 'zoomgate_connections{state="ACTIVE"}') == "4.0"


def test_counters_outlive_their_process_and_gauges_do_not(tmp_path: Path) -> None:
    """What a process that ended had counted stays in the sum, also when another one takes its number; what it said was the case goes."""
    process(
        tmp_path,
        1,
        "store_error()",
        "store_error()",
        "refresh_seconds(0.2)",
        "journal_entries(2)",
        "circuit_breaker_open(True)",
    )
    process(tmp_path, 2, "store_error()", "refresh_seconds(0.4)", "journal_entries(3)")
    metrics.drop_gauges(1, tmp_path)
    assert shown(tmp_path, "zoomgate_journal_entries") == "3.0"
    assert shown(tmp_path, "zoomgate_token_endpoint_circuit_breaker_open") == "0.0"
    process(tmp_path, 1, "store_error()")
    assert shown(tmp_path, "zoomgate_store_errors_total") == "4.0"
    assert shown(tmp_path, "zoomgate_refresh_seconds_count") == "2.0"
    assert shown(tmp_path, "zoomgate_journal_entries") == "3.0"
