"""Wheels of this project's distributions, and clean virtual environments."""

import subprocess
import sys
from pathlib import Path

from support.toolchain import unavailable

ROOT = Path(__file__).parents[2]
CLIENT, SIMULATOR, SERVER = ROOT / "clients/python", ROOT / "server/zoom_simulator", ROOT


def build_wheel(project: Path, directory: Path) -> Path:
    """Build the wheel of a project; skip the test if that is not possible."""
    _pip(Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", str(directory), str(project))
    return next(directory.glob("*.whl"))


def virtual_environment(directory: Path, *packages: str, base: str = sys.executable) -> Path:
    """Create a virtual environment with the given packages, and return its interpreter; skip the test if that is not possible."""
    subprocess.run([base, "-m", "venv", str(directory)], check=True)
    python = directory / "bin/python"
    install(python, *packages)
    return python


def install(python: Path, *packages: str) -> None:
    """Install packages into a virtual environment; skip the test if that is not possible."""
    _pip(python, "install", *packages)


def _pip(python: Path, command: str, *arguments: str) -> None:
    process = subprocess.run(
        [str(python), "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if process.returncode != 0:
        unavailable(f"pip {command} {' '.join(arguments)}: {process.stderr[-300:]}")
