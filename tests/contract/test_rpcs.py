"""Tests of every RPC in the descriptors, and of docs/rpcs.md: an RPC must not lack a part that all others have."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import click
import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from support.command_line import command
from support.harness import running
from support.recording_service import METHODS, recording_service
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate_server.cli import cli
from zoomgate_server.cli.scopes import rpc_operations
from zoomgate_server.rpc.middleware.access_policy import METHOD_POLICY, method_name

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/rpcs.md"
HEAD = """# RPCs

Every RPC with its operation of [Zoom's API](https://developers.zoom.us/docs/api/), the roles of its callers, a command, and a page with an
example. A test creates this table. The [proto files](../proto/zoomgate/v1) document authorization, errors and retries.

| RPC | operation | roles | command | example |
|---|---|---|---|---|
"""

WITHOUT_EXAMPLE = {
    "AuthService.CompleteAuthorization": "part of `zoomgate connect --paste`",
    "AuthService.GetAuthorization": "part of `zoomgate connect`",
    "AuthService.CreateToken": "none: for callers with their own redirect URL",
    "AuthService.RequestToken": "none: for callers with their own refresh tokens",
    "AuthService.ImportConnection": "`zoomgate import jsonl tokens.jsonl`",
    "AuthService.ValidateUser": "none: for members",
}
"""The RPCs that no example in the help of a command calls, and what the page contains instead."""

MORE_EXAMPLES = ("zoomgate connections refresh monica@example.com",)
"""Examples of commands that call other RPCs than the example in their help."""

EXAMPLE_PAGES = (
    "docs/meetings.md", "docs/grpcurl.md", "docs/proxy.md", "clients/python/README.md", "docs/migrate-from-velo.md",
    "docs/importing.md",
)  # fmt: skip
"""The pages with examples."""

TYPED = ("/zoomgate.v1.MeetingsService/", "/zoomgate.v1.RegistrantsService/")
"""The services whose RPCs call one operation of Zoom each."""

INVALID = {
    FieldDescriptor.CPPTYPE_STRING: "\x00",
    FieldDescriptor.CPPTYPE_INT32: -1,
    FieldDescriptor.CPPTYPE_INT64: -1,
    FieldDescriptor.CPPTYPE_ENUM: 99,
}
"""The invalid value of fields by their types."""

RPCS = [method_name(path) for path in METHODS]


def help_examples(group: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the example in the help of each command that calls the service."""
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            child = group.get_command(context, name)
            assert child is not None
            yield from help_examples(child, click.Context(child, parent=context, info_name=name))
    elif any(parameter.name == "server" for parameter in group.params):
        example = (group.help or "").partition("Example: ")[2].partition("\n\n")[0]
        match = re.search(r"zoomgate [^()|]+", " ".join(example.split()))
        assert match, context.command_path
        yield match.group().strip()


async def commands(directory: Path) -> dict[str, str]:
    """Run the examples of all commands, and return for each RPC an example that calls it, and few others."""
    (directory / "changes.json").write_text("{}")
    runs = []
    async with recording_service() as service:
        environ = {"ZOOMGATE_SERVER": service.address, "ZOOMGATE_DATA_DIR": str(directory)}
        for example in (*help_examples(cli, click.Context(cli)), *MORE_EXAMPLES):
            await command(*shlex.split(example)[1:], environ=environ)
            runs.append((tuple(service.called), example))
            service.called.clear()
    calls: dict[str, str] = {}
    for called, example in sorted(runs, key=lambda run: len(run[0])):
        for rpc in called:
            calls.setdefault(rpc, example)
    return calls


def example_page(rpc: str) -> str:
    """Return the first page with an example of an RPC, as a grpcurl command or in Python; empty if there is none."""
    service, _, name = rpc.partition(".")
    attribute = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    client = service.removesuffix("Service").lower()
    pattern = rf"zoomgate\.v1\.{service}/{name}\b|\b{client}\.{attribute}(\.all|\.pages)?\("
    for page in EXAMPLE_PAGES:
        code = re.findall(
            r"^```(?:sh|python)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
        )
        if any(re.search(pattern, block) for block in code):
            return page
    return ""


def invalid_request(method: MethodDescriptor) -> Message:
    """Return a request whose strings, numbers and enums are invalid."""
    request = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        value = INVALID.get(field.cpp_type)
        if value is not None and field.is_repeated:
            getattr(request, field.name).append(value)
        elif value is not None:
            setattr(request, field.name, value)
    return request


def test_every_rpc_has_a_policy() -> None:
    assert set(METHODS) <= set(METHOD_POLICY)


async def test_every_field_of_a_typed_rpc_is_validated(tmp_path: Path) -> None:
    """All violations are reported together. Flags have no invalid value."""
    async with running(tmp_path) as harness:
        for path, method in METHODS.items():
            if path.startswith(TYPED):
                request = invalid_request(method)
                error = await harness.error_of(harness.channel.unary_unary(path), request.SerializeToString())
                assert error.code is grpc.StatusCode.INVALID_ARGUMENT, path
                checked = {re.split(r"[.\[]", violation)[0] for violation in error.violations}
                expected = {field.name for field, _ in request.ListFields()}
                assert expected <= checked, path


async def test_every_typed_rpc_calls_an_operation_that_the_simulator_knows() -> None:
    """An unknown operation has the error code 2300."""
    assert {method_name(path) for path in METHODS if path.startswith(TYPED)} == set(rpc_operations())
    async with Simulator(SimulatorOptions(port=0)) as zoom, aiohttp.ClientSession() as session:
        token = zoom.connect("monica@example.com").access_token
        headers = {"Authorization": f"Bearer {token}"}
        for rpc, operation in rpc_operations().items():
            url = zoom.api_url + operation.path.format(userId="me", meetingId=1, registrantId="r")
            async with session.request(operation.method, url, headers=headers, json={}) as response:
                body = await response.json(content_type=None) if await response.read() else {}
            assert body.get("code") != 2300, rpc


async def test_page_lists_every_rpc_with_a_command_and_an_example(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run pytest with --regenerate to update the page."""
    monkeypatch.chdir(tmp_path)
    called = await commands(tmp_path)
    assert set(called) | set(WITHOUT_EXAMPLE) == set(RPCS)
    assert not set(called) & set(WITHOUT_EXAMPLE)
    rows = []
    for path in METHODS:
        rpc = method_name(path)
        page = example_page(rpc)
        assert page, f"{rpc} has no example on {EXAMPLE_PAGES}"
        operation = rpc_operations().get(rpc)
        called_operation = f"`{operation.method} {operation.path}`" if operation else ""
        roles = ", ".join(sorted(METHOD_POLICY[path].roles))
        shown = f"`{called[rpc]}`" if rpc in called else WITHOUT_EXAMPLE[rpc]
        link = f"../{page}" if page.startswith("clients/") else page.removeprefix("docs/")
        title = (ROOT / page).read_text().partition("\n")[0].removeprefix("# ")
        rows.append(f"| {rpc} | {called_operation} | {roles} | {shown} | [{title}]({link}) |\n")
    content = HEAD + "".join(rows)
    if request.config.getoption("--regenerate"):
        PAGE.write_text(content, encoding="utf-8")
    assert content == PAGE.read_text(encoding="utf-8")
