"""Distributions of this project, and clean virtual environments in which they run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.toolchain import unavailable

ROOT = Path(__file__).parents[2]
CLIENT, SIMULATOR = ROOT / "clients/python", ROOT / "server/zoom_simulator"


def build_wheel(project: Path, directory: Path) -> Path:
    """Build the wheel of a project; skip the test if that is not possible."""
    _run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(directory), str(project))
    return next(directory.glob("*.whl"))


def make_dist(directory: Path) -> Path:
    """Build all distributions with `make dist`, and return the directory; skip the test if that is not possible."""
    _run("make", "-C", str(ROOT), "dist", f"DIST={directory}")
    return directory


def pythons() -> dict[str, str]:
    """Return the installed interpreters that Zoomgate supports, by version such as `3.12`, oldest first."""
    found = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in range(11, 20):
        name = f"python3.{minor}"
        paths = [shutil.which(name) or "", *map(str, pyenv.glob(f"versions/3.{minor}.*/bin/{name}"))]
        for path in filter(None, paths):
            if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
                found[f"3.{minor}"] = path
                break
    return found


def virtual_environment(directory: Path, *packages: str, base: str = sys.executable) -> Path:
    """Create a virtual environment with the given packages, and return its interpreter; skip the test if that is not possible."""
    subprocess.run([base, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin/python"
    install(python, *packages)
    return python


def install(python: Path, *packages: str) -> None:
    """Install packages into a virtual environment; skip the test if that is not possible."""
    _run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *packages)


@contextmanager
def zoomgate_run(python: Path | str, data_dir: Path) -> Iterator[str]:
    """Run `zoomgate run` with an interpreter, and yield the address of the gRPC server."""
    command = [str(python), "-I", "-m", "zoomgate_server", "run", "--data-dir", str(data_dir)]
    for option in ("--listen", "--http-listen", "--simulator-listen"):
        command += [option, "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(
                match.group(1)
                for line in process.stdout
                if (match := re.search(r"zoomgate: ready grpc=(\S+)", line))
            )
        finally:
            process.terminate()
            process.stdout.read()


def _run(*command: str) -> None:
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if process.returncode != 0:
        unavailable(f"{' '.join(command)}: {process.stderr[-300:]}")
