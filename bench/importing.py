"""Benchmark of importing the collection of a Velo site: rows per second, and memory. `python -m bench.importing [ROWS] [DRY_RUN_ROWS]`."""

import contextlib
import csv
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.process_stats import memory_kib
from bench.server_process import server
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import SimulatedUser
from zoom_simulator.testing import RunningSimulator, running
from zoomgate_server.cli.caller_key import digest

ROWS, DRY_ROWS, SMALL_ROWS = 5_000, 100_000, 1_000
COLUMNS = (
    "userEmail",
    "access_token",
    "expires_in",
    "scope",
    "refresh_token",
    "token_type",
    "_id",
    "_owner",
    "_createdDate",
    "_updatedDate",
)
PADDING = "x" * 600
"""Suffix that extends a token to the typical length of Zoom's tokens."""


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        rows: Number of rows in the file.
        counts: Number of rows by status.
        seconds: Duration of the command.
        mib: Peak memory of the command.
    """

    rows: int
    counts: dict[str, Any]
    seconds: float
    mib: float

    @property
    def rate(self) -> float:
        """Rows per second, including start and exit of the command."""
        return self.rows / self.seconds


def write(path: Path, rows: Iterable[tuple[str, str, str]], updated: float) -> None:
    """Write the rows to a file. Each row has the user's email address, access token and refresh token."""
    date = datetime.fromtimestamp(updated, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for user, access, refresh in rows:
            writer.writerow((user, access, 3600, "user:read:user", refresh, "bearer", "1", "2", date, date))
    path.chmod(0o600)


def connected_rows(zoom: RunningSimulator, rows: int) -> Iterator[tuple[str, str, str]]:
    """Let `rows` users consent in the Zoom simulator, and yield a row for each user."""
    for number in range(rows):
        tokens = zoom.connect(f"p{number}@example.com")
        yield f"p{number}@example.com", tokens.access_token, tokens.refresh_token


def dry_run_rows(rows: int) -> Iterator[tuple[str, str, str]]:
    """Yield rows for a dry run: one in a hundred has no email address, and one in a hundred has the user of the previous row."""
    for number in range(rows):
        user = f"p{number - number % 100 if number % 100 == 1 else number}@example.com"
        yield ("" if number % 100 == 2 else user), f"a{number}{PADDING}", f"r{number}{PADDING}"


def run_import(directory: Path, environ: dict[str, str], *options: str) -> ImportResult:
    """Run the import command and measure its duration and peak memory."""
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    started = time.perf_counter()
    process = subprocess.Popen(
        [zoomgate, "import", "velo-users", "ZoomUsers.csv", "--json", *options],
        cwd=directory,
        env={key: value for key, value in os.environ.items() if not key.startswith("ZOOMGATE_")} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    # wait4 is not used, since the peak that it returns is never below the memory size of the current process
    while process.poll() is None:
        with contextlib.suppress(OSError):
            peak = max(peak, memory_kib(process.pid, "VmHWM"))
        time.sleep(0.05)
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    assert process.returncode in (0, 1), process.returncode
    counts = json.loads(output)
    return ImportResult(counts["rows"], counts, seconds, peak / 1024)


def measure_import(directory: Path, rows: int, *, expired: bool) -> ImportResult:
    """Import users through a service with an empty store, with a Zoom simulator that responds immediately."""
    directory.mkdir()
    key = secrets.token_hex(16)
    callers = directory / "callers.toml"
    callers.write_text(f'[[callers]]\nname = "bench"\nrole = "admin"\nkey_sha256 = "{digest(key)}"\n')
    callers.chmod(0o600)
    users = tuple(SimulatedUser(f"p{number}@example.com") for number in range(rows))
    with running(SimulatorOptions(port=0, users=users)) as zoom:
        write(directory / "ZoomUsers.csv", connected_rows(zoom, rows), time.time() - (7200 if expired else 0))
        if expired:
            zoom.expire()
        environ = {
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_CALLERS": str(callers),
            "ZOOMGATE_DATA_DIR": str(directory / "data"),
            "ZOOMGATE_CLIENT_ID": zoom.client_id,
            "ZOOMGATE_CLIENT_SECRET": zoom.client_secret,
            "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        }
        zoomgate = str(Path(sys.executable).with_name("zoomgate"))
        with server([zoomgate, "serve"], environ, every_core=True) as (address, _, _):
            caller = {"ZOOMGATE_SERVER": address, "ZOOMGATE_KEY": key}
            result = run_import(directory, caller, "--rate", "5000")
    assert result.counts["stored"] == rows, result.counts
    return result


def measure_dry_run(directory: Path, rows: int) -> ImportResult:
    """Validate a file without importing it."""
    directory.mkdir()
    write(directory / "ZoomUsers.csv", dry_run_rows(rows), time.time() - 7200)
    result = run_import(directory, {}, "--dry-run")
    (directory / "ZoomUsers.csv").unlink()
    return result


def report(directory: Path, rows: int = ROWS, dry_rows: int = DRY_ROWS) -> None:
    """Run all measurements, and print their results."""
    expired, valid = (
        measure_import(directory / "import-expired", rows, expired=True),
        measure_import(directory / "import-valid", rows, expired=False),
    )
    small = measure_import(directory / "import-few-rows", SMALL_ROWS, expired=True)
    for description, result in (("expired", expired), ("valid", valid)):
        print(
            f"{result.rows:,} Velo rows with {description} access tokens: {result.rate:,.0f} rows/s in {result.seconds:.1f} s;"
            f" memory {result.mib:.0f} MiB, {result.mib - small.mib:+.1f} MiB over {SMALL_ROWS:,} rows; {format_counts(result.counts)}"
        )
    large = measure_dry_run(directory / "dry-run-large", dry_rows)
    small = measure_dry_run(directory / "dry-run-small", SMALL_ROWS)
    print(
        f"{large.rows:,} Velo rows, dry run: {large.rate:,.0f} rows/s in {large.seconds:.1f} s;"
        f" memory {large.mib:.0f} MiB, {large.mib - small.mib:+.1f} MiB over {SMALL_ROWS:,} rows; {format_counts(large.counts)}"
    )


def format_counts(counts: dict[str, Any]) -> str:
    """Return the formatted counts."""
    return ", ".join(
        f"{count:,} {name}" for name, count in counts.items() if name not in ("rows", "results") and count
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        report(Path(directory), *(int(argument) for argument in sys.argv[1:3]))
