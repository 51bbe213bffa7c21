"""Tests for the client's wheel in clean environments: the README examples and the types."""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import MONICA, browser, consent
from support.wheels import CLIENT, build_wheel, virtual_environment

README = (CLIENT / "README.md").read_text()
EXAMPLES = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def newest_python() -> str:
    """Return the newest installed Python interpreter, or the current interpreter if none is found."""
    for minor in range(20, sys.version_info.minor, -1):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    return sys.executable


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(CLIENT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that contains only the wheel and its dependencies."""
    base = sys.executable if request.param == "oldest" else newest_python()
    if request.param == "newest" and base == sys.executable:
        pytest.skip("no Python newer than the interpreter of the tests is installed")
    return virtual_environment(tmp_path_factory.mktemp("clean"), str(wheel), base=base)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `zoomgate run`, and yield the address of the service."""
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
                match.group(1)
                for line in process.stdout
                if (match := re.search(r"zoomgate: ready grpc=(\S+)", line))
            )
        finally:
            process.terminate()
            process.stdout.read()


def give_consent(url: str) -> None:
    """Open an authorization URL with an HTTP client that acts as a browser, and allow the app."""

    async def visit() -> None:
        async with browser() as session:
            await consent(session, url, MONICA)

    asyncio.run(visit())


@pytest.mark.timeout(300)
def test_readme_examples_run_without_warnings(python: Path, address: str, tmp_path: Path) -> None:
    assert len(EXAMPLES) == 6
    for number, (title, code) in enumerate(EXAMPLES):
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
                    give_consent(line.split(": ", 1)[1].strip())
            errors = process.stderr.read()
        assert process.returncode == 0, f"{title}: {errors}"
        assert output, title
        assert not errors, f"{title}: {errors}"


@pytest.mark.timeout(300)
def test_strict_type_checker_uses_the_types_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """The type checker accepts the examples of the README and rejects a wrong request type."""
    for number, (_, code) in enumerate(EXAMPLES):
        (tmp_path / f"example_{number}.py").write_text(code)
    invalid = "from zoomgate import Client\nfrom zoomgate.v1.auth_service_pb2 import GetTokenRequest\n"
    invalid += "Client().auth.get_connection(GetTokenRequest())\n"
    (tmp_path / "invalid.py").write_text(invalid)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    names = [f"example_{number}.py" for number in range(len(EXAMPLES))]
    accepted = subprocess.run([*command, *names], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert accepted.returncode == 0, accepted.stdout
    rejected = subprocess.run(
        [*command, "invalid.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "incompatible type" in rejected.stdout
