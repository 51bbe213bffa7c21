"""The committed stubs: fresh, alone in their wheel, and importable where we say."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from support.toolchain import unavailable

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "clients/python/src/zoomgate/v1"
IMPORTS = "import zoomgate; " + "; ".join(
    f"import zoomgate.v1.{name}"
    for name in (
        "auth_service_pb2_grpc",
        "meetings_service_pb2_grpc",
        "proxy_service_pb2_grpc",
        "error_reason_pb2",
    )
)


def run(*command: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=300
    )


def venv(folder: Path, *packages: str) -> Path:
    """A clean environment with packages; skips the test where they cannot be had."""
    assert run(sys.executable, "-m", "venv", str(folder)).returncode == 0
    python = folder / "bin" / "python"
    found = run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    if found.returncode != 0:
        unavailable(f"pip cannot install {packages}: {found.stderr[-300:]}")
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel, built once."""
    folder = tmp_path_factory.mktemp("wheel")
    found = run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        "clients/python",
    )
    if found.returncode != 0:
        unavailable(f"the wheel cannot be built: {found.stderr[-300:]}")
    return next(folder.glob("*.whl"))


def floors() -> dict[str, tuple[int, ...]]:
    """The least versions that the client's distribution declares."""
    declared = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["dependencies"]
    found = {}
    for line in declared:
        name, version = re.match(r"([a-z-]+)>=([\d.]+)", line).groups()  # type: ignore[union-attr]
        found[name] = tuple(map(int, version.split(".")))
    return found


def test_the_stubs_demand_no_more_than_is_declared() -> None:
    """The versions stamped into the stubs are not above the floors of the distribution."""
    for path in STUBS.glob("*.py"):
        text = path.read_text()
        stamped = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", text)
        if stamped:
            assert tuple(map(int, stamped.group(1).split("."))) <= floors()["grpcio"], path.name
        stamped = re.search(r"# Protobuf Python Version: ([\d.]+)", text)
        if stamped:
            assert tuple(map(int, stamped.group(1).split("."))) <= floors()["protobuf"], path.name


@pytest.mark.timeout(300)
def test_stubs_are_up_to_date(tmp_path: Path) -> None:
    """Generating again changes nothing."""
    generator = ROOT / ".venv-generate"
    found = run("make", ".venv-generate/.ready")
    if found.returncode != 0:
        unavailable(f"the generator cannot be installed here: {found.stderr[-300:]}")
    path = f"{generator / 'bin'}{os.pathsep}{os.environ['PATH']}"
    found = run("sh", ".ci/generate.sh", str(tmp_path), PATH=path)
    assert found.returncode == 0, found.stderr
    fresh = {path.name: path.read_text() for path in (tmp_path / "zoomgate/v1").iterdir()}
    committed = {path.name: path.read_text() for path in STUBS.iterdir() if path.suffix in (".py", ".pyi")}
    assert committed == fresh, "run `make generate` and commit the result"


def test_the_wheel_holds_its_own_package_alone(wheel: Path) -> None:
    """Nothing but `zoomgate` and its metadata is in the wheel, types included."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zoomgate"}
    assert "zoomgate/py.typed" in names
    assert "zoomgate/v1/auth_service_pb2.pyi" in names


@pytest.mark.parametrize(
    "packages",
    [
        pytest.param(("grpcio==1.71.2", "protobuf==5.29.0", "googleapis-common-protos==1.66.0"), id="floor"),
        pytest.param(("grpcio", "protobuf>=6,<7"), id="protobuf 6"),
        pytest.param(("grpcio", "protobuf"), id="newest"),
    ],
)
@pytest.mark.timeout(300)
def test_the_wheel_imports_from_the_floor_to_the_newest(
    wheel: Path, tmp_path: Path, packages: tuple[str, ...]
) -> None:
    """In a clean environment the wheel imports with the oldest and the newest versions that it declares."""
    python = venv(tmp_path / "venv", str(wheel), *packages)
    found = run(str(python), "-W", "error", "-c", IMPORTS, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
