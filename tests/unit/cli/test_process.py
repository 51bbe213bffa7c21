"""Tests for the command as a process: imports, output and files."""

import contextlib
import json
import os
import re
import resource
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from html import unescape
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import click
import pytest

from support.certificates import write_pair
from zoomgate import Client
from zoomgate_server.app import file_descriptors
from zoomgate_server.cli import cli

FREE = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
RUN = ("run", *FREE, "--simulator-listen", "127.0.0.1:0")
ZOOM = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET": "hush"}
SECONDS = 30


def clean_environment(environ: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of the tests without Zoomgate's settings, plus `environ`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    return inherited | (environ or {})


def run(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to completion."""
    return subprocess.run(
        [sys.executable, "-m", "zoomgate_server", *arguments],
        cwd=folder,
        env=clean_environment(environ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@contextlib.contextmanager
def start_process(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None, command: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in the background, as a module or by the path of its script."""
    with subprocess.Popen(
        [*([command] if command else [sys.executable, "-m", "zoomgate_server"]), *arguments],
        cwd=folder,
        env=clean_environment(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Read the output of a process up to a line that matches."""
    assert process.stdout is not None
    text, end = "", time.monotonic() + SECONDS
    while not re.search(pattern, text, re.MULTILINE):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 65536).decode() if ready else ""
        assert chunk, f"the process did not print {pattern}: {text}"
        text += chunk
    return text


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """Stop a process, and return the rest of its output."""
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return out, err


def loaded_packages(*arguments: str) -> set[str]:
    """Run a command in a new process, and return the packages that the process has loaded."""
    code = (
        "import sys; from zoomgate_server.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_help_loads_no_heavy_modules() -> None:
    heavy = {
        "grpc",
        "aiohttp",
        "google",
        "rich",
        "structlog",
        "orjson",
        "cryptography",
        "zoomgate",
        "zoom_simulator",
    }
    assert not loaded_packages("--help") & (heavy | {"asyncio", "sqlite3"})


@pytest.mark.parametrize("command", sorted(cli.list_commands(click.Context(cli))))
def test_help_of_a_command_loads_only_what_the_command_line_needs(command: str) -> None:
    """The libraries of the service and of the importer are loaded when a command runs. The simulator's command line needs its server."""
    service = {"aiohttp", "motor", "prometheus_client", "pymongo", "uvloop"}
    client = {"grpc", "google"}
    allowed = {
        "simulator": {"aiohttp"},
        **dict.fromkeys(
            ("connect", "connections", "import", "meetings", "proxy", "registrants", "scopes", "token"),
            client,
        ),
    }
    assert loaded_packages(command, "--help") & (service | client) <= allowed.get(command, set())


@pytest.mark.parametrize(
    "command", ["store backup b.db", "store restore PATH", "store backup PATH", "keys rotate", "prune"]
)
def test_path_that_cannot_be_used_is_reported(tmp_path: Path, command: str) -> None:
    """The store's path or the path of an argument has a directory with a name that is too long."""
    path = f"{'x' * 300}/z.db"
    assert run(tmp_path, "keys", "new").returncode == 0
    result = run(
        tmp_path, *command.replace("PATH", path).split(), environ={"ZOOMGATE_STORE": f"sqlite:///{path}"}
    )
    assert result.returncode == 1
    assert re.fullmatch(
        rf"zoomgate: .*cannot access '?{path}'? \(File name too long\); check .*\n", result.stderr
    )


@pytest.mark.parametrize("command", ["doctor", "keys list", "callers list", "serve"])
def test_deleted_current_directory_is_reported(tmp_path: Path, command: str) -> None:
    deleted = tmp_path / "deleted"
    deleted.mkdir()

    result = subprocess.run(
        ["sh", "-c", f"rmdir ../deleted; exec '{sys.executable}' -m zoomgate_server {command}"],
        cwd=deleted,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert result.returncode == 1
    messages = result.stdout if command == "doctor" else result.stderr
    assert "the current directory was deleted; change to a different directory" in messages
    assert "Traceback" not in result.stderr


def test_module_can_be_run_as_the_command(tmp_path: Path) -> None:
    result = run(tmp_path, "--help")
    assert result.returncode == 0
    for name in ("run", "serve", "simulator", "connections", "callers", "keys", "doctor"):
        assert re.search(rf"^  {name} ", result.stdout, re.MULTILINE)
    assert re.fullmatch(
        r"zoomgate \d+\.\d+\.\d+ \(commit ([0-9a-f]{12}(-dirty)?|unknown)\)\n",
        run(tmp_path, "--version").stdout,
    )


def test_run_starts_everything_and_prints_a_guide(tmp_path: Path) -> None:
    """The ready line is printed first. The guide contains the path of the member's key file, which only the owner can read."""
    with start_process(tmp_path, *RUN, "--data-dir", "my data") as process:
        text = read_until(process, r"to stop\.$")
        home = home_page(text)
        rest, log = stop(process, signal.SIGINT)
    ready, _, guide = text.partition("\n")
    address = re.fullmatch(r"zoomgate: ready grpc=(127\.0\.0\.1:\d+) http=(127\.0\.0\.1:\d+)", ready)
    assert address is not None
    for call in (
        "BeginAuthorization",
        "CreateMeeting",
        "GetMeeting",
        "DeleteMeeting",
        "ProxyService/Get",
        " list",
    ):
        assert call in guide
    assert f"export ZOOMGATE_SERVER={address[1]}\n" in guide
    assert f"curl http://{address[2]}/zoomgate.v1.MeetingsService/CreateMeeting" in guide
    overview = re.search(r"^  Zoom +(\S+) \(simulator.*\n +overview page: (\1/_sim/)$", text, re.MULTILINE)
    assert overview is not None
    assert f'<a href="{overview[2]}">Zoom simulator</a>' in home
    assert "'my data/member.key'" in guide
    key = (tmp_path / "my data" / "member.key").read_text()
    assert stat.S_IMODE((tmp_path / "my data" / "member.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "my data").stat().st_mode) == 0o700
    assert key not in text + rest + log
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("redirect_uri", "paste"),
    [("https://www.example.com/zoom", True), ("https://www.example.com/oauth/callback", False)],
)
def test_guide_connects_users_with_the_pasted_url_if_zoom_redirects_to_a_different_page(
    tmp_path: Path, redirect_uri: str, paste: bool
) -> None:
    with start_process(tmp_path, *RUN, environ={"ZOOMGATE_REDIRECT_URI": redirect_uri}) as process:
        guide = read_until(process, r"to stop\.$")
        stop(process)
    (command,) = re.findall(r"^  .* connect monica@example\.com .*$", guide, re.MULTILINE)
    assert ("--paste" in command) == paste
    assert (f"{redirect_uri}, which is not a page of this service" in guide) == paste
    assert ("BeginAuthorization" in guide) != paste


def home_page(text: str) -> str:
    """Return the page at the root of the HTTP server of a command that printed the text."""
    address = re.search(r"^zoomgate: ready grpc=\S+ http=(\S+)$", text, re.MULTILINE)
    assert address is not None
    with urllib.request.urlopen(f"http://{address[1]}/", timeout=SECONDS) as response:
        page: str = response.read().decode()
        return page


@pytest.mark.parametrize("options", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)])
def test_root_of_the_development_server_describes_the_service(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The page shows the version and readiness. All its links work."""
    with start_process(tmp_path, *RUN, *options, "--data-dir", "data") as process:
        text = read_until(process, r"to stop\.$")
        page = home_page(text)
        links = re.findall(r'href="([^"]+)"', page)
        base = f"http://{text.partition('http=')[2].split()[0]}"
        for link in links:
            with urllib.request.urlopen(urljoin(base, link), timeout=SECONDS) as response:
                assert response.status == 200
        stop(process)
    assert f"Version {version('zoomgate-server')}, ready" in page
    assert "password" not in page
    assert len(links) == 3


@pytest.mark.parametrize("redirect_uri", ["", "https://www.example.com/zoom"])
def test_code_of_the_command_on_the_overview_page_can_be_exchanged(tmp_path: Path, redirect_uri: str) -> None:
    """The consent that the simulator grants without a browser has the redirect URI of the service."""
    environ = {"ZOOMGATE_REDIRECT_URI": redirect_uri} if redirect_uri else {}
    with start_process(tmp_path, *RUN, environ=environ) as process:
        guide = read_until(process, r"to stop\.$")
        overview = re.search(r"overview page: (\S+)", guide)
        address = re.search(r"grpc=(\S+)", guide)
        assert overview is not None
        assert address is not None
        with urllib.request.urlopen(overview[1], timeout=SECONDS) as response:
            commands = re.findall(r"<pre><code>(curl .*?)</code></pre>", response.read().decode())
        (command,) = (command for command in commands if "/_sim/authorize" in command)
        consent = subprocess.run(
            shlex.split(unescape(command)), capture_output=True, check=True, timeout=SECONDS
        )
        (code,) = parse_qs(urlsplit(json.loads(consent.stdout)["location"]).query)["code"]
        with Client(address[1]) as client:
            assert client.auth.create_token(user_email="monica@example.com", code=code).success
        stop(process)


def test_printed_commands_work_unchanged(tmp_path: Path) -> None:
    """This includes a shell without `zoomgate` on its PATH, and a data directory with a caller key from a previous run with Zoom."""
    command = str(Path(sys.executable).with_name("zoomgate"))
    bare = {"PATH": "/usr/bin:/bin"}
    with start_process(
        tmp_path, "run", *FREE, "--data-dir", "data", environ=ZOOM | bare, command=command
    ) as process:
        with_zoom = list_command(read_until(process, r"to stop\.$"))
        assert with_zoom.startswith(f"{command} ")
        assert shell(tmp_path, with_zoom, bare) == 0
        stop(process)
    with start_process(tmp_path, *RUN, "--data-dir", "data", environ=bare, command=command) as process:
        simulated = list_command(read_until(process, r"to stop\.$"))
        assert shell(tmp_path, simulated, bare | {"ZOOMGATE_DATA_DIR": "data"}) == 0
        stop(process)


def list_command(guide: str) -> str:
    """Return the printed command that lists connections."""
    (line,) = [line.strip() for line in guide.splitlines() if "connections list" in line]
    return line


def shell(folder: Path, line: str, environ: dict[str, str]) -> int:
    """Run a line in a shell, and return its exit code."""
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=clean_environment(environ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    ).returncode


def test_run_with_a_zoom_app_does_not_load_the_simulator(tmp_path: Path) -> None:
    code = "import sys; sys.modules['zoom_simulator'] = None; from zoomgate_server.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", *FREE],
        cwd=tmp_path,
        env=clean_environment(ZOOM),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        read_until(process, r"to stop\.$")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_service_loads_no_unused_modules() -> None:
    """JSON log lines need no console renderer."""
    code = (
        "import sys; from zoomgate_server.app import lifecycle; from zoomgate_server.cli import serve;"
        "serve.logs.configure('info', 'json');"
        "print(sorted({'structlog', 'rich.console', 'pygments'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_run_with_a_zoom_app_requires_a_key(tmp_path: Path) -> None:
    """A caller key is created, and the printed commands use it."""
    with start_process(tmp_path, "run", *FREE, environ=ZOOM) as process:
        text = read_until(process, r"to stop\.$")
        address = re.search(r"grpc=(\S+)", text)
        assert address is not None
        with_key = run(tmp_path, "connections", "list", "--json", "--server", address[1])
        without_key = run(tmp_path.parent, "connections", "list", "--server", address[1])
        rest, log = stop(process)
    key = (tmp_path / ".zoomgate" / "caller.key").read_text()
    audit_trail = map(json.loads, (tmp_path / ".zoomgate" / "audit.jsonl").read_text().splitlines())
    (added,) = [event for event in audit_trail if event["action"] == "callers.added"]
    assert added["details"] == {
        "caller": "dev",
        "role": "admin+service",
        "users": "*",
        "file": ".zoomgate/caller.key",
    }
    assert 'authorization: Bearer $(cat .zoomgate/caller.key)"' in text
    assert "simulator" not in text
    assert key not in text + rest + log
    assert "hush" not in text + rest + log
    assert (with_key.returncode, with_key.stdout) == (0, "")
    assert without_key.returncode == 4


def test_concurrently_added_callers_are_all_stored(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                start_process(tmp_path, "callers", "add", f"caller{number}", "--role", "admin")
            )
            for number in range(8)
        ]
        assert [process.wait(SECONDS) for process in processes] == [0] * 8
    assert (tmp_path / "callers.toml").read_text().count("[[callers]]") == 8


def test_hangup_reloads_the_files(tmp_path: Path) -> None:
    """SIGHUP does not end `zoomgate run`, and is logged once."""
    with start_process(tmp_path, *RUN) as process:
        read_until(process, r"to stop\.$")
        process.send_signal(signal.SIGHUP)
        _, log = stop(process)
    assert log.count('"files.reloaded"') == 1


def test_hangup_does_not_end_a_service_that_is_starting(tmp_path: Path) -> None:
    assert run(tmp_path, "keys", "new", "keys.json").returncode == 0
    assert run(tmp_path, "callers", "add", "calendar", "--role", "admin").returncode == 0
    environ = ZOOM | {
        "ZOOMGATE_STORE": "mongodb://127.0.0.1:1/zoomgate",
        "ZOOMGATE_KEYS": "keys.json",
        "ZOOMGATE_CALLERS": "callers.toml",
    }
    with start_process(tmp_path, "serve", *FREE, environ=environ) as process:
        assert process.stderr is not None
        while "store.unreachable" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        stop(process)


def test_log_reader_that_stops_does_not_block_the_service(tmp_path: Path) -> None:
    """Calls succeed and SIGTERM ends the service, although the log is not read."""
    with start_process(tmp_path, *RUN) as process:
        address = re.search(r"grpc=(\S+)", read_until(process, r"to stop\.$"))
        assert address is not None
        with Client(address[1], key=None) as client:
            for _ in range(1000):
                client.auth.validate_user(user_email="monica@example.com")
        process.terminate()
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read().count("ValidateUser") < 1000  # the pipe was full


def test_output_to_a_full_disk_is_reported(tmp_path: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-m", "zoomgate_server", "doctor"],
            cwd=tmp_path,
            env=clean_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "zoomgate: output is incomplete (No space left on device); free some disk space\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_failed_tls_handshakes_print_no_lines_of_grpc(tmp_path: Path, workers: str) -> None:
    """The log contains only JSON, and the client prints one message."""
    cert, key, _ = write_pair(tmp_path)
    tls = {"ZOOMGATE_TLS_CERT": str(cert), "ZOOMGATE_TLS_KEY": str(key), "ZOOMGATE_WORKERS": workers}
    with start_process(tmp_path, *RUN, environ=tls) as process:
        address = re.search(r"ready grpc=(\S+)", read_until(process, "ready grpc="))
        assert address is not None
        result = run(tmp_path, "connections", "list", "--server", address.group(1))
        _, log = stop(process)
    assert (result.returncode, result.stderr.count("\n")) == (5, 1), result.stderr
    assert result.stderr.startswith("zoomgate: the service at ")
    assert all(json.loads(line)["event"] for line in log.splitlines()), log


def test_standard_streams_may_be_closed(tmp_path: Path) -> None:
    """The exit code is the same as with open streams, and there is no traceback."""
    command = shlex.join([sys.executable, "-m", "zoomgate_server"])
    for arguments, streams, code in (
        ("doctor", "<&- >&-", 0),
        ("doctor", "<&- >&- 2>&-", 0),
        ("serve", "<&- >&-", 1),
        ("connections delete monica@example.com", "<&-", 1),
        ("proxy post monica@example.com /users/me/meetings -d - --server 127.0.0.1:1", "<&-", 5),
        ("meetings create monica@example.com --details -", "<&-", 2),
        ("proxy download monica@example.com /file - --server 127.0.0.1:1", ">&-", 2),
    ):
        result = subprocess.run(  # noqa: S602 - only a shell can close streams
            f"{command} {arguments} {streams}",
            shell=True,
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (result.returncode, "Traceback" in result.stderr) == (code, False), (
            arguments,
            result.stderr,
        )


def test_run_starts_several_workers(tmp_path: Path) -> None:
    """The ready line and the guide are printed once, and calls without a key are accepted."""
    with start_process(tmp_path, *RUN, "--workers", "2") as process:
        text = read_until(process, r"to stop\.$")
        address = re.search(r"grpc=(\S+)", text)
        assert address is not None
        results = [run(tmp_path, "connections", "list", "--json", "--server", address[1]) for _ in range(2)]
        stop(process, signal.SIGINT)
    assert text.count("zoomgate: ready") == 1
    assert [result.returncode for result in results] == [0, 0]


def limited(limit: str, *arguments: str) -> tuple[str, ...]:
    """Return the arguments of a shell that limits the number of open files and runs a command."""
    return "-c", f"ulimit {limit}; exec {shlex.join([sys.executable, '-m', 'zoomgate_server', *arguments])}"


@pytest.mark.parametrize("workers", [1, 2])
def test_soft_limit_of_open_files_is_raised(tmp_path: Path, workers: int) -> None:
    """Workers inherit the limit."""
    arguments = limited("-Sn 256", *RUN, "--workers", str(workers))
    environ = {"ZOOMGATE_MAX_CONCURRENT_ZOOM_CALLS": "100"}
    with start_process(tmp_path, *arguments, command="/bin/sh", environ=environ) as process:
        read_until(process, "^zoomgate: ready")
        raised, _ = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        refreshes, exchanges, downloads, zoom_calls = 64, 16, 64, 100
        assert raised == refreshes + exchanges + downloads + zoom_calls + file_descriptors.RESERVE
        _, messages = stop(process)
        assert "file_descriptors_limited" not in messages


def test_too_low_hard_limit_of_open_files_is_reported(tmp_path: Path) -> None:
    """The service starts with a warning, and `zoomgate doctor` shows the needed number."""
    with start_process(tmp_path, *limited("-n 512", *RUN), command="/bin/sh") as process:
        read_until(process, "^zoomgate: ready")
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (512, 512)
        _, messages = stop(process)
    assert '"event":"service.file_descriptors_limited"' in messages
    with start_process(tmp_path, *limited("-n 512", "doctor"), command="/bin/sh") as process:
        report, _ = process.communicate()
    assert re.search(r"^warn  open files +at most 512 ", report, re.MULTILINE)


def scheduling_classes(pid: int) -> set[int]:
    """Return the scheduling classes of all threads of a process and of its child processes."""
    threads = [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    children = [Path(f"/proc/{pid}/task/{thread}/children").read_text().split() for thread in threads]
    return {os.sched_getscheduler(thread) for thread in threads}.union(
        *(scheduling_classes(int(child)) for ids in children for child in ids)
    )


@pytest.mark.parametrize(
    ("workers", "setting", "started_in", "expected"),
    [
        ("1", "on", "SCHED_OTHER", "SCHED_BATCH"),
        ("2", "on", "SCHED_OTHER", "SCHED_BATCH"),
        ("1", "off", "SCHED_OTHER", "SCHED_OTHER"),
        ("1", "on", "SCHED_IDLE", "SCHED_IDLE"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="requires Linux")
def test_threads_have_the_configured_scheduling_class(
    tmp_path: Path, workers: str, setting: str, started_in: str, expected: str
) -> None:
    """All threads of the service and its workers use SCHED_BATCH, unless it is disabled or a different class was chosen."""
    launcher = (
        "import os, sys; os.sched_setscheduler(0, getattr(os, sys.argv[1]), os.sched_param(0));"
        "os.execv(sys.executable, [sys.executable, '-m', 'zoomgate_server', *sys.argv[2:]])"
    )
    arguments = ("-c", launcher, started_in, *RUN, "--workers", workers)
    environ = {"ZOOMGATE_BATCH_SCHEDULING": setting}
    with start_process(tmp_path, *arguments, command=sys.executable, environ=environ) as process:
        read_until(process, "^zoomgate: ready")
        assert scheduling_classes(process.pid) == {getattr(os, expected)}
        stop(process)


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="requires Linux on x86-64"
)
def test_refused_scheduling_class_does_not_prevent_a_start(tmp_path: Path) -> None:
    """A sandbox may forbid the system call: the service starts, and logs this once."""
    launcher = """
import ctypes, os, struct, sys
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
libc = ctypes.CDLL(None, use_errno=True)
load, equal, ret = 0x20, 0x15, 0x06  # instructions of seccomp(2); 144 is sched_setscheduler
filters = [(load, 0, 0, 0), (equal, 0, 1, 144), (ret, 0, 0, 0x50001), (ret, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in filters))
libc.prctl(38, 1, 0, 0, 0)
libc.prctl(22, 2, struct.pack("HP", len(filters), ctypes.addressof(program)))
os.execv(sys.executable, [sys.executable, "-m", "zoomgate_server", *sys.argv[1:]])
"""
    arguments = ("-c", launcher, *RUN, "--workers", "2")
    with start_process(tmp_path, *arguments, command=sys.executable) as process:
        read_until(process, "^zoomgate: ready")
        _, messages = stop(process)
    assert messages.count('"event":"service.scheduling_class_refused"') == 1


@pytest.mark.parametrize("content", ["", "zgk_short", "secret"])
def test_invalid_key_file_prevents_a_start(tmp_path: Path, content: str) -> None:
    """A key that is empty or not generated by Zoomgate could be guessed."""
    (tmp_path / ".zoomgate").mkdir()
    file = tmp_path / ".zoomgate" / "caller.key"
    file.write_text(content)
    file.chmod(0o600)
    result = run(tmp_path, "run", *FREE, environ=ZOOM)
    assert result.returncode == 1
    assert result.stderr == (
        "zoomgate: .zoomgate/caller.key does not contain a key; delete it and restart the service to create a new key\n"
    )
    assert list((tmp_path / ".zoomgate").iterdir()) == [file]


def test_key_file_accessible_to_other_users_is_rejected(tmp_path: Path) -> None:
    (tmp_path / ".zoomgate").mkdir()
    file = tmp_path / ".zoomgate" / "caller.key"
    file.write_text(f"zgk_{'a' * 43}")
    file.chmod(0o644)
    result = run(tmp_path, "run", *FREE, environ=ZOOM)
    assert result.returncode == 1
    assert "is accessible to other users" in result.stderr


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--listen", "in use, or not permitted"),
        ("--http-listen", "Address already in use"),
        ("--simulator-listen", "Address already in use"),
    ],
)
def test_port_in_use_is_reported_and_no_files_remain(tmp_path: Path, option: str, reason: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        result = run(tmp_path, *RUN, option, address)
    assert result.returncode == 1
    assert result.stdout == ""
    problem = f"{option}: cannot listen on {address} ({reason}); choose a different port"
    assert result.stderr == f"zoomgate: {problem}\n"
    assert list(tmp_path.iterdir()) == []


def test_run_uses_the_configured_log_level(tmp_path: Path) -> None:
    with start_process(tmp_path, *RUN, environ={"ZOOMGATE_LOG_LEVEL": "error"}) as process:
        read_until(process, r"to stop\.$")
        _, log = stop(process)
    assert log == ""


def test_serve_creates_only_its_data_directory(tmp_path: Path) -> None:
    """The service starts with only a TOML file, prints the ready line, and exits with 0 on SIGTERM."""
    assert run(tmp_path, "callers", "add", "ops", "--role", "admin").returncode == 0
    (tmp_path / "z.toml").write_text(
        'listen = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\ndata_dir = "data"\ncallers = "callers.toml"\n'
        'client_id = "app"\nclient_secret = "hush"\n'
    )
    with start_process(tmp_path, "serve", environ={"ZOOMGATE_CONFIG": "z.toml"}) as process:
        read_until(process, r"^zoomgate: ready grpc=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+$")
        stop(process)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["callers.toml", "data", "z.toml"]


def test_serve_lists_all_problems_of_the_callers_file(tmp_path: Path) -> None:
    """The start fails with the line number and the reason of each problem, and no file changes."""
    (tmp_path / "callers.toml").write_text('[[callers]]\nname = "A"\nrole = "x"\n')
    result = run(tmp_path, "serve", *FREE, environ=ZOOM | {"ZOOMGATE_CALLERS": "callers.toml"})
    assert result.returncode == 1
    assert [line.partition(" must")[0] for line in result.stderr.splitlines()] == [
        "zoomgate: ZOOMGATE_CALLERS: callers.toml:2: name",
        "zoomgate: ZOOMGATE_CALLERS: callers.toml:1: key_sha256",
        "zoomgate: ZOOMGATE_CALLERS: callers.toml:3: role",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["callers.toml"]


def test_simulator_runs_without_the_service(tmp_path: Path) -> None:
    with start_process(tmp_path, "simulator", "--listen", "127.0.0.1:0") as process:
        read_until(process, r"^zoom_simulator: ready http=127\.0\.0\.1:\d+$")
        stop(process)
