"""Tests for the examples in other languages: docs/clients.md contains their commands and parts of their code."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from support.harness import MONICA, browser, consent
from support.tcp_proxy import Mode, tcp_proxy
from support.toolchain import require
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/clients.md").read_text()
SECTIONS = {match[1]: match[2] for match in re.finditer(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE)}
TOOLS = {
    "Go": ("go",),
    "TypeScript": ("node", "npm"),
    "TypeScript with grpc-js": ("node", "npm"),
    "Java": ("javac", "mvn"),
    "Rust": ("cargo",),
}
each_language = pytest.mark.parametrize("language", TOOLS)


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Return the languages and contents of the code blocks of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def program(*command: str, cwd: Path, **environ: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a program and yield its output. At the end of the context, kill it and its children, and wait for it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        | {"CARGO_TARGET_DIR": str(ROOT / "examples/rust/target")}  # dependencies are compiled once
        | environ,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):  # it has exited
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def read_until(output: asyncio.StreamReader, pattern: str) -> re.Match[str]:
    """Read lines up to the first that matches the pattern, and return the match."""
    lines = ""
    async for line in output:
        lines += line.decode()
        match = re.search(pattern, lines)
        if match:
            return match
    raise AssertionError(f"no line matches {pattern}:\n{lines}")


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[str]:
    """Start a service and yield its address."""
    command = [sys.executable, "-m", "zoomgate_server", "run", "--data-dir", str(tmp_path / "data")]
    for option in ("--listen", "--http-listen", "--simulator-listen"):
        command += [option, "127.0.0.1:0"]
    async with program(*command, cwd=ROOT) as output:
        yield (await read_until(output, r"ready grpc=(\S+)"))[1]


@asynccontextmanager
async def nginx(directory: Path, upstream: int) -> AsyncIterator[int]:
    """Run nginx in front of a gRPC server on a local port, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid nginx.pid; error_log /dev/stdout notice;
        events {{ }}
        http {{
          access_log off;
          client_body_temp_path temporary; proxy_temp_path temporary; fastcgi_temp_path temporary;
          uwsgi_temp_path temporary; scgi_temp_path temporary;
          server {{
            listen 127.0.0.1:{port} http2;
            location / {{ grpc_pass grpc://127.0.0.1:{upstream}; }}
          }}
        }}"""
    )
    command = [require("nginx", "see .ci/run"), "-p", str(directory), "-e", "stderr", "-c", "nginx.conf"]
    async with program(*command, cwd=directory) as output:
        await read_until(output, "event method")
        yield port


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory with the examples and proto files, without anything built."""
    for name in ("examples", "proto"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("gen*", "node_modules", "dist", "target", "*.lock"),
        )
    return tmp_path


def commands(language: str, kind: str = "sh") -> str:
    """Return the documented commands of a language: `sh` build and run the example, `bash` only generate its stubs, with buf.

    Skip the test if a tool is missing.
    """
    for tool in TOOLS[language]:
        require(tool, f"docs/clients.md, {language}")
    return "set -e\n" + "".join(block for name, block in code_blocks(SECTIONS[language]) if name == kind)


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_language
async def test_example_resumes_an_interrupted_watch(language: str, zoomgate: str, checkout: Path) -> None:
    """The client loses its connection to a proxy, then the proxy loses the service and resets the stream, while the user consents.

    A watch that did not resume would report the user in a new snapshot.
    """
    host, _, port = zoomgate.partition(":")
    script = commands(language)
    async with (
        tcp_proxy((host, int(port))) as upstream,
        nginx(checkout, upstream.port) as reverse_proxy,
        tcp_proxy(("127.0.0.1", reverse_proxy)) as network,
    ):
        address = f"127.0.0.1:{network.port}"
        async with program("bash", "-c", script, cwd=checkout, ZOOMGATE_SERVER=address) as output:
            url = await read_until(output, rf"{MONICA} must open this URL: (\S+)")
            network.disconnect()
            await read_until(output, "SYNCED\n")
            upstream.set_mode(Mode.CUT)
            upstream.disconnect()
            async with browser() as session:
                await consent(session, url[1], MONICA)
            upstream.set_mode(Mode.FORWARD)
            rest = (await output.read()).decode()
    assert "CREATED\n" in rest
    assert "INITIAL" not in rest
    assert re.search(r"created meeting \d+: https://", rest)
    assert "deleted the meeting" in rest.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_language
async def test_example_reports_that_no_service_listens(language: str, checkout: Path) -> None:
    script = "exec 2>&1\n" + commands(language)
    async with program("bash", "-c", script, cwd=checkout, ZOOMGATE_SERVER="127.0.0.1:1") as output:
        assert "unavailable" in (await output.read()).decode().lower()


class InterruptedService(AuthServiceServicer):
    """A service that ends a watch after its snapshot without an error, and allows one retry of BeginAuthorization.

    It rejects the first resumption since it is overloaded, and the second since the resume token has expired.

    Attributes:
        pause: The seconds from the end of the first stream to its resumption.
    """

    def __init__(self) -> None:
        self.resume_tokens: list[str] = []
        self.pause = 0.0
        self.authorizations = 0

    async def WatchConnections(
        self, request: pb.WatchConnectionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchConnectionsResponse]:
        self.resume_tokens.append(request.resume_token)
        if len(self.resume_tokens) == 2:
            self.pause += time.monotonic()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many active watches")
        if request.resume_token:
            reason = error_details_pb2.ErrorInfo(domain="zoomgate", reason="RESUME_TOKEN_EXPIRED")
            status = Status(code=grpc.StatusCode.OUT_OF_RANGE.value[0])
            status.details.add().Pack(reason)
            await context.abort_with_status(rpc_status.to_status(status))
        if len(self.resume_tokens) == 1:
            yield pb.WatchConnectionsResponse(
                type=pb.WatchConnectionsResponse.TYPE_INITIAL, resume_token="token"
            )
            self.pause -= time.monotonic()
            return
        yield pb.WatchConnectionsResponse(type=pb.WatchConnectionsResponse.TYPE_SYNCED, resume_token="token")
        await asyncio.Event().wait()

    async def BeginAuthorization(self, _request: pb.BeginAuthorizationRequest, context: Any) -> Any:
        self.authorizations += 1
        if self.authorizations == 2:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no authorizations today")


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_language
async def test_example_resumes_an_ended_watch_and_retries_until_a_negative_pushback(
    language: str, checkout: Path
) -> None:
    service, server = InterruptedService(), grpc.aio.server()
    add_AuthServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    script = "exec 2>&1\n" + commands(language)
    async with program("bash", "-c", script, cwd=checkout, ZOOMGATE_SERVER=f"127.0.0.1:{port}") as output:
        assert "no authorizations today" in (await output.read()).decode()
    await server.stop(None)
    assert service.resume_tokens == ["", "token", "token", ""]
    assert service.pause >= 0.9
    assert service.authorizations == (1 if language == "Rust" else 2)  # tonic does not retry


async def succeed(script: str, cwd: Path, **environ: str) -> None:
    """Run a script and expect that it succeeds."""
    async with program("bash", "-c", f"{{ {script}\n}} 2>&1 && echo succeeded", cwd=cwd, **environ) as output:
        assert (await output.read()).decode().endswith("succeeded\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("language", "files"),
    [("TypeScript", ("main.ts", "browser.ts")), ("TypeScript with grpc-js", ("grpc_js.ts",))],
)
async def test_typescript_example_compiles_in_a_project_of_its_own(
    language: str, files: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for name in files:
        shutil.copy(ROOT / "examples/typescript" / name, tmp_path)
    await succeed(commands(language, "bash").replace("ZOOMGATE/", f"{ROOT}/") + "npx tsc", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_go_example_compiles_in_a_module_of_its_own(tmp_path: Path) -> None:
    """The module requires at least the version of grpc-go with which the example is tested."""
    example = ROOT / "examples/go"
    (tmp_path / "go.mod").write_text("module example.com/app\n")
    main = (example / "main.go").read_text().replace("zoomgate.dev/examples/go/", "example.com/app/")
    (tmp_path / "main.go").write_text(main)
    await succeed(commands("Go", "bash").replace("ZOOMGATE/", f"{ROOT}/") + "go vet .", tmp_path)

    def version(directory: Path) -> list[int]:
        match = re.search(r"google\.golang\.org/grpc v([\d.]+)", (directory / "go.mod").read_text())
        assert match is not None
        return [int(part) for part in match[1].split(".")]

    assert version(tmp_path) >= version(example)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_java_example_compiles_with_the_stubs_of_buf(checkout: Path) -> None:
    await succeed(commands("Java", "bash"), checkout)
    await succeed(
        """mvn -q dependency:build-classpath -Dmdep.outputFile=target/classpath
        javac -d target/classes -cp "$(cat target/classpath)" -sourcepath gen src/main/java/*.java""",
        checkout / "examples/java",
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_rust_example_compiles_with_the_stubs_of_buf(checkout: Path) -> None:
    tools = checkout / "tools"
    await succeed(
        commands("Rust", "bash"),
        checkout,
        CARGO_INSTALL_ROOT=str(tools),
        CARGO_PROFILE_RELEASE_OPT_LEVEL="0",
        PATH=os.pathsep.join([str(tools / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
    )
    main = checkout / "examples/rust/src/main.rs"
    replacement, included = re.findall(r"`(\S+!\(\S+\))`", SECTIONS["Rust"])
    main.write_text(main.read_text().replace(included, replacement))
    assert replacement in main.read_text()
    await succeed("cargo build --quiet", main.parents[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_buf_generates_the_messages_of_csharp(checkout: Path) -> None:
    """Without the services, since only NuGet has their plugin. Maven has protoc."""
    await succeed(commands("Java", "bash"), checkout)
    directory = checkout / "examples/csharp"
    template = yaml.safe_load((directory / "buf.gen.yaml").read_text())
    template["plugins"] = [plugin for plugin in template["plugins"] if "protoc_builtin" in plugin]
    template["plugins"][0]["protoc_path"] = str(checkout / "examples/java/target/bin/protoc")
    await succeed(f"buf generate --template '{json.dumps(template)}'", directory)
    generated = "".join(path.read_text() for path in (directory / "gen").iterdir())
    assert "namespace Zoomgate.V1 {" in generated
    assert "class WatchConnectionsRequest " in generated


def test_code_of_the_page_is_the_code_of_the_examples() -> None:
    """A code block consists of complete lines of a file. Its indentation may differ."""
    files = [
        textwrap.dedent(path.read_text())
        for path in (ROOT / "examples").rglob("*")
        if path.suffix in (".go", ".ts", ".java", ".rs", ".xml", ".toml", ".yaml")
        and not {"node_modules", "gen", "gen-grpc-js", "target"} & set(path.parts)
    ]

    def without_indentation(text: str) -> str:
        return "\n" + "\n".join(line.strip() for line in text.strip().splitlines()) + "\n"

    flat = [without_indentation(text) for text in files]
    blocks = [block for kind, block in code_blocks(PAGE) if kind not in ("sh", "bash", "text")]
    assert len(blocks) >= 12
    for block in blocks:
        assert any(without_indentation(block) in text for text in flat), block
