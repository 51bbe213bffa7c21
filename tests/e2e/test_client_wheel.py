"""The wheel in clean environments, and the recipes of its README against a service in a process of its own."""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import MONICA, browser, consent
from support.toolchain import unavailable

ROOT = Path(__file__).parents[2]
README = (ROOT / "clients/python/README.md").read_text()
RECIPES = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def newest() -> str:
    """The newest Python at hand, or this one."""
    for minor in range(20, sys.version_info.minor, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    return sys.executable


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), "clients/python"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        unavailable(f"the wheel cannot be built: {found.stderr[-300:]}")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and what it asks for, and nothing else."""
    base = sys.executable if request.param == "oldest" else newest()
    if request.param == "newest" and base == sys.executable:
        pytest.skip("there is no newer Python here than the one that runs the tests")
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    command = [
        str(folder / "bin/python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        str(wheel),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        unavailable(f"pip cannot install the wheel: {found.stderr[-300:]}")
    return folder / "bin/python"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service as `zoomgate run` starts it."""
    command = [
        sys.executable,
        "-m",
        "zoomgate_server",
        "run",
        "--data-dir",
        str(tmp_path_factory.mktemp("data")),
    ]
    command += [
        "--listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--simulator-listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(
                found.group(1)
                for line in process.stdout
                if (found := re.search(r"zoomgate: ready grpc=(\S+)", line))
            )
        finally:
            process.terminate()
            process.stdout.read()


def allow(link: str) -> None:
    """Open a link and allow, as a person does."""

    async def visit() -> None:
        async with browser() as session:
            await consent(session, link, MONICA)

    asyncio.run(visit())


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_recipes_run(python: Path, address: str, tmp_path: Path) -> None:
    """Each recipe of the README runs as it stands, one after the other, without warnings."""
    assert len(RECIPES) == 6
    for number, (title, code) in enumerate(RECIPES):
        script = tmp_path / f"{number}.py"
        script.write_text(code.replace("127.0.0.1:50051", address))
        with subprocess.Popen(
            [str(python), "-I", "-u", "-W", "error", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            output = ""
            for line in process.stdout:
                output += line
                if line.startswith("Open this in a browser: "):
                    allow(line.split(": ", 1)[1].strip())
            errors = process.stderr.read()
        assert process.returncode == 0, f"{title}: {errors}"
        assert output, title
        assert not errors, f"{title}: {errors}"


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_types_reach_the_user(wheel: Path, tmp_path: Path) -> None:
    """A strict type checker accepts the recipes, and refuses a wrong request type."""
    for number, (_, code) in enumerate(RECIPES):
        (tmp_path / f"recipe_{number}.py").write_text(code)
    wrong = "from zoomgate import Client\nfrom zoomgate.v1.auth_service_pb2 import GetTokenRequest\n"
    wrong += "Client().auth.get_connection(GetTokenRequest())\n"
    (tmp_path / "wrong.py").write_text(wrong)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    names = [f"recipe_{number}.py" for number in range(len(RECIPES))]
    good = subprocess.run([*command, *names], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout
    bad = subprocess.run([*command, "wrong.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "incompatible type" in bad.stdout
