"""Tests for the distributions that `make dist` builds, in clean environments."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from support.wheels import ROOT, install, make_dist, pythons, virtual_environment, zoomgate_run
from zoomgate_server import build_info

pytestmark = pytest.mark.timeout(300)

PINNED = ("-c", str(ROOT / "constraints.txt"))
LOCK = ROOT / "deploy/requirements.lock"
PACKAGES = {
    "zoomgate": "zoomgate",
    "zoomgate_server": "zoomgate_server",
    "zoomgate_simulator": "zoom_simulator",
}
CALL = """
import sys
from zoomgate import Client

with Client(sys.argv[1]) as zoomgate:
    print(zoomgate.auth.begin_authorization(user_email="monica@example.com").authorization_url)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dist(tmp_path_factory.mktemp("release") / "dist")


def from_dist(dist: Path) -> tuple[str, ...]:
    """Return the options with which pip finds our distributions in the folder, and pinned dependencies in the index."""
    return (*PINNED, "--find-links", str(dist))


def run(python: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run an isolated interpreter of an environment."""
    return subprocess.run(
        [str(python), "-I", *command],
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def write_wheel(directory: Path, name: str, version: str, build: str) -> None:
    """Write a wheel with one file, which contains the build."""
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.txt", build)
        wheel.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{information}/RECORD", "")


def test_build_without_a_commit_stops_with_one_sentence(tmp_path: Path) -> None:
    """Otherwise, the build would fail later, or have a wrong date. What was built earlier remains."""
    (tmp_path / "dist").mkdir()
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv-dist/.ready", "dist"]
    environ = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    built = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert built.returncode != 0
    sentence, failure = built.stderr.splitlines()
    assert sentence.startswith("make dist: git cannot read the commit; run this in a clone")
    assert "Error 1" in failure
    assert (tmp_path / "dist").exists()


@pytest.mark.parametrize("page", ["deploy.md", "releases.md"])
def test_documented_command_installs_any_version_over_any_other(page: str, tmp_path: Path) -> None:
    """It installs, replaces a build of the same version, upgrades, and rolls back."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (arguments,) = re.findall(r"^(?:/opt/zoomgate/bin/)?pip (install .+\.whl)$", text, re.MULTILINE)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
    pip = f"{sys.executable} -m pip --python {tmp_path / 'environment/bin/python'}"
    folder = tmp_path / "dist"
    for version, build in (("1.0", "first"), ("1.0", "second"), ("2.0", "third"), ("1.0", "fourth")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in PACKAGES:
            write_wheel(folder, name, version, build)
        subprocess.run(f"{pip} {arguments}", shell=True, cwd=tmp_path, check=True)  # noqa: S602 - the documented command
        installed = {
            path.stem: path.read_text() for path in tmp_path.glob("environment/lib/*/site-packages/*.txt")
        }
        assert installed == {"zoomgate": build, "zoomgate_server": build}


def test_wheels_contain_one_package_each(dist: Path) -> None:
    wheels = {wheel.name.partition("-")[0]: zipfile.ZipFile(wheel) for wheel in dist.glob("*.whl")}
    assert wheels.keys() == PACKAGES.keys()
    for name, wheel in wheels.items():
        contents = {path.split("/")[0] for path in wheel.namelist() if ".dist-info/" not in path}
        assert contents == {PACKAGES[name]}


def test_distributions_have_one_version_and_require_each_other_within_its_minor_version(dist: Path) -> None:
    metadata = {}
    for wheel in dist.glob("*.whl"):
        content = zipfile.ZipFile(wheel)
        (path,) = (name for name in content.namelist() if name.endswith("/METADATA"))
        headers = Parser().parsestr(content.read(path).decode())
        metadata[headers["Name"]] = headers
    version = metadata["zoomgate-server"]["Version"]
    assert {headers["Version"] for headers in metadata.values()} == {version}
    compatible = f"~={'.'.join(version.split('.')[:2])}.0"
    requirements = metadata["zoomgate-server"].get_all("Requires-Dist")
    assert [line for line in requirements if line.startswith("zoomgate")] == [
        f"zoomgate{compatible}",
        f"zoomgate-simulator{compatible}; extra == 'run'",
    ]


def test_two_builds_of_a_commit_are_identical(dist: Path, tmp_path: Path) -> None:
    """This includes the source distributions and the SBOM."""
    again = make_dist(tmp_path / "dist")
    assert (again / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    assert len((dist / "SHA256SUMS").read_text().splitlines()) == 7


@pytest.mark.parametrize("version", pythons())
def test_installed_release_serves_an_installed_client(dist: Path, tmp_path: Path, version: str) -> None:
    """The release is installed on every supported Python that this machine has, and shows the commit from which it was built."""
    base = pythons()[version]
    python = virtual_environment(tmp_path / "venv", *from_dist(dist), "zoomgate-server[run]", base=base)
    shown = subprocess.run(
        [python.with_name("zoomgate"), "--version"], capture_output=True, text=True, check=True
    )
    version_and_commit = rf"zoomgate {build_info.version()} \(commit {build_info.commit()[:12]}(-dirty)?\)\n"
    assert re.fullmatch(version_and_commit, shown.stdout)
    with zoomgate_run(python, tmp_path / "data") as address:
        called = run(python, "-W", "error", "-c", CALL, address)
    assert called.stdout.startswith("http://127.0.0.1:"), called.stderr


def test_locked_installation_is_complete(dist: Path, tmp_path: Path) -> None:
    """This is the installation of the container image: dependencies with checked hashes, then our wheels without theirs."""
    python = virtual_environment(tmp_path / "venv", "--require-hashes", "-r", str(LOCK))
    wheels = [str(next(dist.glob(f"{name}-*.whl"))) for name in ("zoomgate", "zoomgate_server")]
    install(python, "--no-deps", "--no-index", *wheels)
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert run(python, "-m", "zoomgate_server", "serve", "--help").returncode == 0


def test_sbom_lists_the_locked_packages(dist: Path) -> None:
    sbom = json.loads((dist / "zoomgate-server.cdx.json").read_text())
    server = sbom["metadata"]["component"]
    assert (server["name"], server["version"]) == ("zoomgate-server", build_info.version())
    listed = {(canonicalize_name(row["name"]), row["version"]) for row in sbom["components"]}
    locked = re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert listed == {*locked, ("zoomgate", build_info.version())}


def test_server_without_the_simulator_explains_how_to_install_it(dist: Path, tmp_path: Path) -> None:
    """The service runs without the simulator. With the simulator, the commands that require it work."""
    python = virtual_environment(tmp_path / "venv", *from_dist(dist), "zoomgate-server")
    for command in ("serve", "run"):
        assert run(python, "-m", "zoomgate_server", command, "--help").returncode == 0
    for command in (["run"], ["simulator"], ["simulator", "fault", "off"]):
        result = run(python, "-m", "zoomgate_server", *command)
        assert result.returncode == 2, result.stderr
        assert "pip install dist/zoomgate_simulator-*.whl, or" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    install(python, "--no-index", *map(str, dist.glob("zoomgate_simulator-*.whl")))
    for command in ("run", "simulator"):
        assert run(python, "-m", "zoomgate_server", command, "--help").returncode == 0


def test_simulator_requires_neither_server_nor_client(dist: Path, tmp_path: Path) -> None:
    python = virtual_environment(tmp_path / "venv", *from_dist(dist), "zoomgate-simulator")
    assert run(python, "-m", "zoom_simulator", "--help").returncode == 0
    assert "127.0.0.1:PORT" in run(python, "-m", "zoom_simulator", "stats", "--at", "nowhere").stderr
    assert "zoomgate_server" in run(python, "-m", "zoomgate_server").stderr  # not installed
