"""Tests with connect-es, Connect's client for JavaScript: from Node.js, and from web pages in Chromium."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2
from selenium import webdriver

from support.chromium import chromium
from support.harness import MONICA, Harness, caller_key, running
from support.toolchain import require, unavailable
from zoomgate.v1 import meetings_service_pb2

pytestmark = pytest.mark.timeout(300)

SOURCES = Path(__file__).with_name("connect_es")
NODE_HINT = "on Debian: apt-get install nodejs npm"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with connect-es and the scripts, which no other test process changes."""
    npm = require("npm", NODE_HINT)
    folder = tmp_path_factory.mktemp("connect-es")
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    command = [npm, "install", "--silent", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        unavailable(f"npm cannot install connect-es: {result.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def bundle(modules: Path) -> str:
    """Return the script for browsers."""
    command = ["node_modules/.bin/esbuild", "browser.mjs", "--bundle", "--format=iife", "--log-level=error"]
    return subprocess.run(command, cwd=modules, capture_output=True, text=True, check=True).stdout


def options(zoomgate: Harness, *, is_binary: bool) -> dict[str, Any]:
    """Return the arguments of the calls."""
    return {
        "url": zoomgate.http_url,
        "key": caller_key("service"),
        "user": MONICA,
        "useBinaryFormat": is_binary,
        "descriptors": base64.b64encode(descriptors()).decode(),
    }


def descriptors() -> bytes:
    """Return the descriptors of MeetingsService, of the details of errors, and of all types that they use."""
    files: dict[str, FileDescriptorProto] = {}

    def add(file: Any) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files[file.name] = FileDescriptorProto.FromString(file.serialized_pb)
        add_json_names(files[file.name].message_type)

    add(meetings_service_pb2.DESCRIPTOR)
    add(error_details_pb2.DESCRIPTOR)
    return FileDescriptorSet(file=files.values()).SerializeToString()


def add_json_names(messages: Iterable[DescriptorProto]) -> None:
    """Add the names of fields in JSON, which the descriptors in Python lack."""
    for message in messages:
        for field in message.field:
            field.json_name = re.sub("_(.)", lambda match: match[1].upper(), field.name)
        add_json_names(message.nested_type)


def check(result: dict[str, Any]) -> None:
    """Check the results of the calls."""
    assert int(result["id"]) > 2**31
    assert result["topic"] == "Review"
    assert result["requestId"]
    assert result["missing"] == {"code": "NotFound", "reasons": ["MEETING_NOT_FOUND"], "fields": []}
    assert (result["invalid"]["code"], result["invalid"]["reasons"]) == ("InvalidArgument", ["INVALID_FIELD"])
    assert set(result["invalid"]["fields"]) == {"user_email", "meeting_id"}
    assert (result["anonymous"]["code"], result["anonymous"]["reasons"]) == (
        "Unauthenticated",
        ["CALLER_UNAUTHENTICATED"],
    )


@pytest.mark.parametrize("is_binary", [False, True], ids=["JSON", "binary"])
async def test_node_calls_rpcs_and_reads_the_details_of_errors(
    tmp_path: Path, modules: Path, is_binary: bool
) -> None:
    node = require("node", NODE_HINT)
    async with running(tmp_path) as zoomgate:
        await zoomgate.connect()
        process = await asyncio.create_subprocess_exec(
            node, "node.mjs", cwd=modules, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        arguments = json.dumps(options(zoomgate, is_binary=is_binary)).encode()
        output, _ = await process.communicate(arguments)
    check(json.loads(output))


@asynccontextmanager
async def site(script: str) -> AsyncIterator[str]:
    """Serve a web page with a script on a free port, and yield its origin."""

    async def page(_: web.Request) -> web.Response:
        text = "<!doctype html><title>App</title><h1>App</h1><script src='/script.js'></script>"
        return web.Response(text=text, content_type="text/html")

    async def source(_: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/script.js", source)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def run_in_page(window: webdriver.Chrome, origin: str, script: str, *arguments: Any) -> Any:
    """Open the page of an origin, and return the value of a promise."""

    def run() -> Any:
        window.get(origin)
        return window.execute_async_script(
            f"const done = arguments[arguments.length - 1]; ({script}).then(done, error => done(String(error)))",
            *arguments,
        )

    return await asyncio.to_thread(run)


async def calls_of_rpcs(zoomgate: Harness) -> list[str]:
    """Return the metrics of the RPCs that have been called, by any protocol."""
    async with (
        aiohttp.ClientSession(zoomgate.http_url) as session,
        session.get("/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    counters = [line for line in lines if line.startswith("zoomgate_rpc_total{")]
    return [line for line in counters if not line.endswith(" 0") and not line.endswith(" 0.0")]


async def test_only_pages_of_allowed_origins_call_rpcs(tmp_path: Path, bundle: str) -> None:
    """A page of another origin receives nothing and has no effect, whatever kind of request it sends."""
    with chromium() as window:
        async with (
            site(bundle) as app,
            site(bundle) as other,
            running(tmp_path, environ={"ZOOMGATE_ALLOWED_ORIGINS": app}) as zoomgate,
        ):
            await zoomgate.connect()
            for is_binary in (False, True):
                arguments = options(zoomgate, is_binary=is_binary)
                check(await run_in_page(window, app, "window.calls(arguments[0])", arguments))
            assert await asyncio.to_thread(window.get_cookies) == []
            before = await calls_of_rpcs(zoomgate)
            result = await run_in_page(window, other, "window.calls(arguments[0])", arguments)
            assert "Failed to fetch" in result["failed"]
            url = f"{zoomgate.http_url}/zoomgate.v1.AuthService/ValidateUser"
            for mode, content_type in (("cors", "application/json"), ("no-cors", "text/plain")):
                request = {
                    "method": "POST",
                    "mode": mode,
                    "credentials": "include",
                    "headers": {"Content-Type": content_type},
                    "body": json.dumps({"userEmail": MONICA}),
                }
                script = (
                    "fetch(arguments[0], arguments[1]).then(async r => r.type + r.status + await r.text())"
                )
                result = await run_in_page(window, other, script, url, request)
                assert result in ("TypeError: Failed to fetch", "opaque0"), result
            calls = set(await calls_of_rpcs(zoomgate)) - set(before)
            # the preflight requests and the other ones, which have no credential
            rejections = {'code="PERMISSION_DENIED",method="other"', 'code="UNAUTHENTICATED"'}
            assert all(any(part in call for part in rejections) for call in calls), calls
