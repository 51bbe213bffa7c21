"""Benchmark of the service against another installation, such as one of an earlier commit or with a different version of gRPC.

`python -m bench.compare ZOOMGATE [ROUNDS] [CALLS]` compares this installation with the command at the path ZOOMGATE, for example
`../before/.venv/bin/zoomgate`.
"""

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import load
from bench.service import REQUESTS, new_refresh_token, running, service_environment, zoom
from zoom_simulator import Simulator
from zoomgate_server.cli.caller_key import new_key
from zoomgate_server.telemetry import logs


async def main(other: str, rounds: int = 5, calls: int = 5000) -> None:
    """Compare the two installations and print the results."""
    logs.configure("warning", "console")
    with tempfile.TemporaryDirectory() as name:
        async with zoom(Path(name)) as (api, simulator):
            await asyncio.to_thread(_compare, Path(name), api.url, simulator, other, rounds, calls)


def _compare(
    directory: Path, api_url: str, simulator: Simulator, other: str, rounds: int, calls: int
) -> None:
    key = new_key()
    loads: dict[str, tuple[list[float], list[float], list[float]]] = {path: ([], [], []) for path in REQUESTS}
    environs = []
    for folder in (directory / "this", directory / "other"):
        folder.mkdir()
        environs.append(service_environment(folder, api_url, simulator, key))
    with (
        running(environs[0], key, new_refresh_token(simulator)) as this,
        running(environs[1], key, new_refresh_token(simulator), command=other) as before,
    ):
        for _ in range(rounds):
            for path, (ours, theirs, speedups) in loads.items():
                here = load(this.target(path), calls, directory)
                there = load(before.target(path), calls, directory)
                ours.append(here.microseconds)
                theirs.append(there.microseconds)
                speedups.append(here.rate / there.rate)
    table = Table("RPC", "µs of processor time per call", "the other", "ratio", "calls/s, ratio")
    for path, (ours, theirs, speedups) in loads.items():
        ratio = statistics.median(one / two for one, two in zip(ours, theirs, strict=True))
        table.add_row(
            path.rpartition("/")[2] if "Proxy" not in path else "Proxy Get",
            f"{statistics.median(ours):.0f}",
            f"{statistics.median(theirs):.0f}",
            f"{ratio:.2f}",
            f"{statistics.median(speedups):.2f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:4])))
