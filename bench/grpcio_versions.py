"""Processor time of a gRPC echo per call, with several versions of grpcio: `python -m bench.grpcio_versions VERSION…`.

Each version is installed into its own virtual environment. The versions are measured alternately.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import Target, load
from bench.server_process import server
from bench.service import GET_TOKEN, REQUESTS

ROUNDS, CALLS = 7, 5000
ROOT = Path(__file__).parents[1]


def install(version: str, folder: Path) -> str:
    """Install what the echo needs into a new virtual environment, and return the path of its interpreter."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    packages = [f"grpcio=={version}", "aiohttp", "uvloop", str(ROOT / "clients/python")]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True
    )
    return python


def main(versions: list[str]) -> None:
    """Measure the versions and print the results, relative to the first version."""
    times: dict[str, list[float]] = {version: [] for version in versions}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        targets = {}
        for version in versions:
            python = install(version, Path(name) / version)
            address, _, process = stack.enter_context(server([python, "-m", "bench.baseline", "echo"]))
            targets[version] = Target(address, process, GET_TOKEN, REQUESTS[GET_TOKEN], key="")
            load(targets[version], CALLS // 5, Path(name))  # the first calls are slower
        for _ in range(ROUNDS):
            for version, target in targets.items():
                times[version].append(load(target, CALLS, Path(name)).microseconds)
    table = Table("grpcio", "min", "median", "max", "median ratio")
    for version, values in times.items():
        ratio = statistics.median(
            value / first for value, first in zip(values, times[versions[0]], strict=True)
        )
        summary = (f"{value:.0f} µs" for value in (min(values), statistics.median(values), max(values)))
        table.add_row(version, *summary, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
