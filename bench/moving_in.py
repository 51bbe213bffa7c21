"""Importing the collection of a Velo site: rows a second, and memory. `python -m bench.moving_in [ROWS] [ROWS OF A DRY RUN]`."""

import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.processes import memory_kib
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import SimulatedUser
from zoom_simulator.testing import RunningSimulator, running

ROWS, DRY_ROWS, FEW = 5_000, 100_000, 1_000
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
FILLED = "x" * 600
"""Zoom's tokens are about so long."""


@dataclass(frozen=True)
class Moved:
    """How an import went.

    Attributes:
        rows: How many rows the file has.
        counts: What became of them.
        seconds: From the start of the command to its end.
        mib: The command's largest memory.
    """

    rows: int
    counts: dict[str, Any]
    seconds: float
    mib: float

    @property
    def rate(self) -> float:
        """Rows a second, start and end of the command included."""
        return self.rows / self.seconds


def write(path: Path, rows: Iterable[tuple[str, str, str]], updated: float) -> None:
    """Write the collection: address, access token, refresh token."""
    date = datetime.fromtimestamp(updated, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for user, access, refresh in rows:
            writer.writerow((user, access, 3600, "user:read:user", refresh, "bearer", "1", "2", date, date))
    path.chmod(0o600)


def consents(zoom: RunningSimulator, rows: int) -> Iterator[tuple[str, str, str]]:
    """Let everybody consent."""
    for number in range(rows):
        tokens = zoom.connect(f"p{number}@example.com")
        yield f"p{number}@example.com", tokens.access_token, tokens.refresh_token


def invented(rows: int) -> Iterator[tuple[str, str, str]]:
    """Rows for a dry run: one of a hundred has no address, one of a hundred is another one's again."""
    for number in range(rows):
        user = f"p{number - number % 100 if number % 100 == 1 else number}@example.com"
        yield ("" if number % 100 == 2 else user), f"a{number}{FILLED}", f"r{number}{FILLED}"


def command(folder: Path, environ: dict[str, str], *options: str) -> Moved:
    """Run the command, and read how large it grew."""
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    started = time.perf_counter()
    process = subprocess.Popen(
        [zoomgate, "import", "velo-users", "ZoomUsers.csv", "--json", *options],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("ZOOMGATE_")} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:  # what wait4 tells is never less than the size of this process was
        with contextlib.suppress(OSError):
            peak = max(peak, memory_kib(process.pid, "VmHWM"))
        time.sleep(0.05)
    answer, _ = process.communicate()
    seconds = time.perf_counter() - started
    assert process.returncode in (0, 1), process.returncode
    counts = json.loads(answer)
    return Moved(counts["rows"], counts, seconds, peak / 1024)


def moved(folder: Path, rows: int, *, expired: bool) -> Moved:
    """Import as many people into an empty store, beside a simulated Zoom that answers at once."""
    folder.mkdir()
    people = tuple(SimulatedUser(f"p{number}@example.com") for number in range(rows))
    with running(SimulatorOptions(port=0, users=people)) as zoom:
        write(folder / "ZoomUsers.csv", consents(zoom, rows), time.time() - (7200 if expired else 0))
        if expired:
            zoom.expire()
        environ = {
            "ZOOMGATE_DATA_DIR": str(folder / "data"),
            "ZOOMGATE_CLIENT_ID": zoom.client_id,
            "ZOOMGATE_CLIENT_SECRET": zoom.client_secret,
            "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        }
        found = command(folder, environ, "--rate", "5000")
    assert found.counts["stored"] == rows, found.counts
    return found


def looked_at(folder: Path, rows: int) -> Moved:
    """Read and check a file alone."""
    folder.mkdir()
    write(folder / "ZoomUsers.csv", invented(rows), time.time() - 7200)
    found = command(folder, {}, "--dry-run")
    (folder / "ZoomUsers.csv").unlink()
    return found


def report(folder: Path, rows: int = ROWS, dry_rows: int = DRY_ROWS) -> None:
    """Measure, and print it."""
    renewed, kept = (
        moved(folder / "import-renewed", rows, expired=True),
        moved(folder / "import-kept", rows, expired=False),
    )
    few = moved(folder / "import-few", FEW, expired=True)
    for what, found in (("expired", renewed), ("valid", kept)):
        print(
            f"{found.rows:,} Velo rows with {what} access tokens: {found.rate:,.0f} rows/s in {found.seconds:.1f} s;"
            f" memory {found.mib:.0f} MiB, {found.mib - few.mib:+.1f} MiB against {FEW:,} rows; {shown(found.counts)}"
        )
    large, small = looked_at(folder / "import-large", dry_rows), looked_at(folder / "import-small", FEW)
    print(
        f"{large.rows:,} Velo rows, dry run: {large.rate:,.0f} rows/s in {large.seconds:.1f} s;"
        f" memory {large.mib:.0f} MiB, {large.mib - small.mib:+.1f} MiB against {FEW:,} rows; {shown(large.counts)}"
    )


def shown(counts: dict[str, Any]) -> str:
    """What became of rows, in words."""
    return ", ".join(
        f"{count:,} {name}" for name, count in counts.items() if name not in ("rows", "results") and count
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        report(Path(place), *(int(argument) for argument in sys.argv[1:3]))
