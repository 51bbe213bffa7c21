"""Tests for the wheels of the server and the simulator in clean environments."""

import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from support.wheels import CLIENT, ROOT, SERVER, SIMULATOR, build_wheel, install, virtual_environment

pytestmark = pytest.mark.timeout(300)

PINNED = ("-c", str(ROOT / "constraints.txt"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    return {
        project: build_wheel(project, tmp_path_factory.mktemp("wheel"))
        for project in (CLIENT, SIMULATOR, SERVER)
    }


def run(python: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a module in an environment."""
    return subprocess.run(
        [str(python), "-I", "-m", *command],
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_server_and_simulator_wheels_contain_one_package_each(wheels: dict[Path, Path]) -> None:
    for project, package in ((SERVER, "zoomgate_server"), (SIMULATOR, "zoom_simulator")):
        names = zipfile.ZipFile(wheels[project]).namelist()
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {package}


def test_server_requires_the_simulator_of_its_own_version() -> None:
    server, simulator = (
        tomllib.loads((project / "pyproject.toml").read_text())["project"] for project in (SERVER, SIMULATOR)
    )
    assert server["optional-dependencies"]["run"] == [f"{simulator['name']}=={server['version']}"]
    assert simulator["version"] == server["version"]


def test_server_without_the_simulator_explains_how_to_install_it(
    wheels: dict[Path, Path], tmp_path: Path
) -> None:
    """The service runs without the simulator. With the simulator, the commands that require it work."""
    python = virtual_environment(tmp_path / "venv", *PINNED, str(wheels[CLIENT]), str(wheels[SERVER]))
    for command in ("serve", "run"):
        assert run(python, "zoomgate_server", command, "--help").returncode == 0
    for command in (["run"], ["simulator"], ["simulator", "fault", "off"]):
        result = run(python, "zoomgate_server", *command)
        assert result.returncode == 2, result.stderr
        assert "pip install 'zoomgate-server[run]'" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    install(python, "--no-index", "--find-links", str(wheels[SIMULATOR].parent), f"{wheels[SERVER]}[run]")
    for command in ("run", "simulator"):
        assert run(python, "zoomgate_server", command, "--help").returncode == 0


def test_simulator_requires_neither_server_nor_client(wheels: dict[Path, Path], tmp_path: Path) -> None:
    python = virtual_environment(tmp_path / "venv", *PINNED, str(wheels[SIMULATOR]))
    assert run(python, "zoom_simulator", "--help").returncode == 0
    assert "127.0.0.1:PORT" in run(python, "zoom_simulator", "stats", "--at", "nowhere").stderr
    assert "zoomgate_server" in run(python, "zoomgate_server").stderr  # not installed
