"""Tests for the client's wheel in clean environments: the README examples and the types."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import MONICA, browser, consent
from support.wheels import CLIENT, build_wheel, pythons, virtual_environment, zoomgate_run

README = (CLIENT / "README.md").read_text()
EXAMPLES = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(CLIENT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that contains only the wheel and its dependencies."""
    base = {"oldest": sys.executable, "newest": list(pythons().values())[-1]}[request.param]
    if request.param == "newest" and sys.version_info[:2] == tuple(map(int, list(pythons())[-1].split("."))):
        pytest.skip("no Python newer than the interpreter of the tests is installed")
    return virtual_environment(tmp_path_factory.mktemp("clean"), str(wheel), base=base)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `zoomgate run`, and yield the address of the service."""
    with zoomgate_run(sys.executable, tmp_path_factory.mktemp("data")) as address:
        yield address


def give_consent(url: str) -> None:
    """Open an authorization URL with an HTTP client that acts as a browser, and allow the app."""

    async def visit() -> None:
        async with browser() as session:
            await consent(session, url, MONICA)

    asyncio.run(visit())


@pytest.mark.timeout(300)
def test_readme_examples_run_without_warnings(python: Path, address: str, tmp_path: Path) -> None:
    assert len(EXAMPLES) == 8
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
