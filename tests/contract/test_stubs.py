"""Tests for the generated stubs and the client's wheel."""

import os
import re
import subprocess
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from support.toolchain import unavailable
from support.wheels import CLIENT, build_wheel, virtual_environment
from zoomgate.v1 import (
    auth_service_pb2,
    connection_pb2,
    meeting_pb2,
    meetings_service_pb2,
    past_meeting_pb2,
    proxy_service_pb2,
    registrant_pb2,
    registrants_service_pb2,
)

ROOT = Path(__file__).parents[2]
MODULES = (
    auth_service_pb2,
    connection_pb2,
    meeting_pb2,
    meetings_service_pb2,
    past_meeting_pb2,
    proxy_service_pb2,
    registrant_pb2,
    registrants_service_pb2,
)
CREDENTIAL = re.compile(
    r"(start|join|chat_join|authorization|callback)_url|(\w+_)?password|(access|refresh)_token|code(_verifier)?|state|ticket|dynamic_host_key"
)
STUBS = ROOT / "clients/python/src/zoomgate/v1"
IMPORTS = "import zoomgate; " + "; ".join(
    f"import zoomgate.v1.{name}"
    for name in (
        "auth_service_pb2_grpc",
        "meetings_service_pb2_grpc",
        "proxy_service_pb2_grpc",
        "registrants_service_pb2_grpc",
        "error_reason_pb2",
    )
)

FAILED_CALL = """
import asyncio, grpc, zoomgate
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server

class Service(AuthServiceServicer):
    async def GetConnection(self, request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "none", (("x-request-id", "from-the-server"),))

async def main():
    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(Service(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with zoomgate.AsyncClient(address, key="key") as client:
            await client.auth.get_connection(user_email="monica@example.com")
    except zoomgate.NotFound as error:
        print(error.request_id)
    finally:
        await server.stop(None)

asyncio.run(main())
"""
"""A call of the asyncio client that fails, with metadata from the server."""

INVALID_FIELDS = """
import zoomgate
for fields in ({"user_email": 1}, {"meeting_details": {"settings": {"alternative_hosts": "x"}}}):
    try:
        zoomgate.Client().meetings.create_meeting(**fields)
    except TypeError as error:
        print(error)
"""
"""Calls with fields of a wrong type."""


def run_command(*command: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the client's wheel, once for all tests."""
    return build_wheel(CLIENT, tmp_path_factory.mktemp("wheel"))


def minimum_versions() -> dict[str, tuple[int, ...]]:
    """Return the minimum versions of the dependencies that the client declares."""
    declared = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["dependencies"]
    versions = {}
    for line in declared:
        name, version = re.match(r"([a-z-]+)>=([\d.]+)", line).groups()  # type: ignore[union-attr]
        versions[name] = tuple(map(int, version.split(".")))
    return versions


def fields_of(messages: Iterable[Descriptor]) -> Iterator[FieldDescriptor]:
    """Return the fields of messages and of the messages nested in them."""
    for message in messages:
        yield from message.fields
        yield from fields_of(message.nested_types)


def test_fields_with_credentials_are_redacted_in_debug_output() -> None:
    """A URL that starts or joins a meeting is a credential; tokens of the API itself are not."""
    postal_state = registrant_pb2.Registrant.DESCRIPTOR.fields_by_name["state"]
    fields = {
        field.full_name: field.GetOptions().debug_redact
        for module in MODULES
        for field in fields_of(module.DESCRIPTOR.message_types_by_name.values())
        if CREDENTIAL.fullmatch(field.name)
        and field.cpp_type == FieldDescriptor.CPPTYPE_STRING
        and field is not postal_state
    }
    assert len(fields) > 20
    assert [name for name, redacted in fields.items() if not redacted] == []


def test_stubs_require_no_newer_versions_than_declared() -> None:
    for path in STUBS.glob("*.py"):
        text = path.read_text()
        required = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", text)
        if required:
            assert tuple(map(int, required.group(1).split("."))) <= minimum_versions()["grpcio"], path.name
        required = re.search(r"# Protobuf Python Version: ([\d.]+)", text)
        if required:
            assert tuple(map(int, required.group(1).split("."))) <= minimum_versions()["protobuf"], path.name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stubs_are_up_to_date(tmp_path: Path) -> None:
    generator = ROOT / ".venv-generate"
    process = run_command("make", ".venv-generate/.ready")
    if process.returncode != 0:
        unavailable(f"cannot install the stub generator: {process.stderr[-300:]}")
    path = f"{generator / 'bin'}{os.pathsep}{os.environ['PATH']}"
    process = run_command("sh", ".ci/generate.sh", str(tmp_path), PATH=path)
    assert process.returncode == 0, process.stderr
    generated = {path.name: path.read_text() for path in (tmp_path / "zoomgate/v1").iterdir()}
    committed = {path.name: path.read_text() for path in STUBS.iterdir() if path.suffix in (".py", ".pyi")}
    assert committed == generated, "run `make generate` and commit the result"


def test_wheel_contains_only_the_zoomgate_package(wheel: Path) -> None:
    """The wheel also contains the type stubs."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zoomgate"}
    assert "zoomgate/py.typed" in names
    assert "zoomgate/v1/auth_service_pb2.pyi" in names


@pytest.mark.parametrize(
    "packages",
    [
        pytest.param(
            ("grpcio==1.71.2", "protobuf==5.29.0", "googleapis-common-protos==1.66.0"), id="minimum"
        ),
        pytest.param(("grpcio", "protobuf>=6,<7"), id="protobuf 6"),
        pytest.param(("grpcio", "protobuf"), id="newest"),
    ],
)
@pytest.mark.timeout(300)
def test_wheel_works_with_minimum_and_newest_dependencies(
    wheel: Path, tmp_path: Path, packages: tuple[str, ...]
) -> None:
    python = virtual_environment(tmp_path / "venv", str(wheel), *packages)
    process = run_command(str(python), "-W", "error", "-c", IMPORTS, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    process = run_command(str(python), "-c", FAILED_CALL, cwd=tmp_path)
    assert process.stdout == "from-the-server\n", process.stderr
    process = run_command(str(python), "-c", INVALID_FIELDS, cwd=tmp_path)
    assert process.stdout.count(" is invalid; pass a") == 2, process.stderr
