"""The command as a process: what it imports, what it prints, what it leaves behind."""

import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FREE = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
RUN = ("run", *FREE, "--simulator-listen", "127.0.0.1:0")
ZOOM = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET": "hush"}
SECONDS = 30


def clean_environment(environ: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of the tests without anybody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    return kept | (environ or {})


def ended(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
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
def started(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None, command: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Run a command that goes on until it is told to stop: as a module, or by the path of the script."""
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
    """What a process prints up to the line that matches."""
    assert process.stdout is not None
    text, end = "", time.monotonic() + SECONDS
    while not re.search(pattern, text, re.MULTILINE):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 65536).decode() if ready else ""
        assert chunk, f"it never printed {pattern}: {text}"
        text += chunk
    return text


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """End a process, and give the rest of what it printed."""
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return out, err


def test_help_comes_without_the_heavy_imports() -> None:
    """The help of the command loads neither gRPC nor aiohttp nor the rest of the service."""
    code = (
        "import sys; from zoomgate_server.cli import cli; cli(['--help'], standalone_mode=False);"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'aiohttp', 'google', 'rich', 'structlog',"
        "'orjson', 'cryptography', 'zoomgate', 'zoom_simulator', 'asyncio', 'sqlite3'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """`python -m zoomgate_server --help` lists every command."""
    result = ended(tmp_path, "--help")
    assert result.returncode == 0
    for name in ("run", "serve", "simulator", "connections", "callers", "keys", "doctor"):
        assert re.search(rf"^  {name} ", result.stdout, re.MULTILINE)
    assert re.fullmatch(r"zoomgate \d+\.\d+\.\d+\S*\n", ended(tmp_path, "--version").stdout)


def test_run_starts_everything_and_says_what_to_try(tmp_path: Path) -> None:
    """The ready line comes first, the commands to paste after it, and a member's key is kept for its owner alone."""
    with started(tmp_path, *RUN, "--data-dir", "my data") as process:
        text = read_until(process, r"^Stop with")
        rest, log = stop(process, signal.SIGINT)
    ready, _, guide = text.partition("\n")
    address = re.fullmatch(r"zoomgate: ready grpc=(127\.0\.0\.1:\d+) http=127\.0\.0\.1:\d+", ready)
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
    assert address[1] in guide
    assert re.search(r"^  Zoom +(\S+) \(simulated.*\n +look inside: \1/_sim/$", text, re.MULTILINE)
    assert "'my data/member.key'" in guide
    key = (tmp_path / "my data" / "member.key").read_text()
    assert stat.S_IMODE((tmp_path / "my data" / "member.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "my data").stat().st_mode) == 0o700
    assert key not in text + rest + log
    assert "\x1b" not in text


def test_run_prints_commands_that_work_as_they_are(tmp_path: Path) -> None:
    """Also where a shell does not find `zoomgate` by its name, and with a key of the real Zoom left in the data folder."""
    command = str(Path(sys.executable).with_name("zoomgate"))
    bare = {"PATH": "/usr/bin:/bin"}
    with started(
        tmp_path, "run", *FREE, "--data-dir", "data", environ=ZOOM | bare, command=command
    ) as process:
        with_zoom = listing(read_until(process, r"^Stop with"))
        assert with_zoom.startswith(f"{command} ")
        assert shell(tmp_path, with_zoom, bare) == 0
        stop(process)
    with started(tmp_path, *RUN, "--data-dir", "data", environ=bare, command=command) as process:
        simulated = listing(read_until(process, r"^Stop with"))
        assert shell(tmp_path, simulated, bare | {"ZOOMGATE_DATA_DIR": "data"}) == 0
        stop(process)


def listing(guide: str) -> str:
    """The printed command that lists connections."""
    (line,) = [line.strip() for line in guide.splitlines() if "connections list" in line]
    return line


def shell(folder: Path, line: str, environ: dict[str, str]) -> int:
    """Run a line as somebody pastes it, and give its exit code."""
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=clean_environment(environ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    ).returncode


def test_run_with_a_zoom_app_lets_nobody_in_without_a_key(tmp_path: Path) -> None:
    """With real Zoom settings a caller key is made, the printed commands use it, and a call without it is refused."""
    with started(tmp_path, "run", *FREE, environ=ZOOM) as process:
        text = read_until(process, r"^Stop with")
        address = re.search(r"grpc=(\S+)", text)
        assert address is not None
        inside = ended(tmp_path, "connections", "list", "--json", "--server", address[1])
        outside = ended(tmp_path.parent, "connections", "list", "--server", address[1])
        rest, log = stop(process)
    key = (tmp_path / ".zoomgate" / "caller.key").read_text()
    told = map(json.loads, (tmp_path / ".zoomgate" / "audit.jsonl").read_text().splitlines())
    (added,) = [line for line in told if line["action"] == "callers.added"]
    assert added["details"] == {
        "caller": "dev",
        "role": "admin+service",
        "users": "*",
        "file": ".zoomgate/caller.key",
    }
    assert 'authorization: Bearer $(cat .zoomgate/caller.key)"' in text
    assert "simulated" not in text
    assert key not in text + rest + log
    assert "hush" not in text + rest + log
    assert (inside.returncode, inside.stdout) == (0, "")
    assert outside.returncode == 4


def test_callers_may_be_added_at_once(tmp_path: Path) -> None:
    """Each command waits for the others that change the file, so that no row is lost."""
    with contextlib.ExitStack() as stack:
        adding = [
            stack.enter_context(started(tmp_path, "callers", "add", f"caller{number}", "--role", "admin"))
            for number in range(8)
        ]
        assert [process.wait(SECONDS) for process in adding] == [0] * 8
    assert (tmp_path / "callers.toml").read_text().count("[[callers]]") == 8


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """Where the output finds no room, a sentence says so."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        found = subprocess.run(
            [sys.executable, "-m", "zoomgate_server", "doctor"],
            cwd=tmp_path,
            env=clean_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert found.returncode == 1
    assert found.stderr == "zoomgate: not everything could be written (No space left on device): make room\n"


def test_streams_may_be_closed(tmp_path: Path) -> None:
    """Whoever starts the command without standard streams gets the same end, and no traceback."""
    command = shlex.join([sys.executable, "-m", "zoomgate_server"])
    for arguments, streams, code in (
        ("doctor", "<&- >&-", 0),
        ("doctor", "<&- >&- 2>&-", 0),
        ("serve", "<&- >&-", 1),
        ("connections delete monica@example.com", "<&-", 1),
        ("proxy post monica@example.com /users/me/meetings -d - --server 127.0.0.1:1", "<&-", 5),
        ("meetings create monica@example.com --details -", "<&-", 2),
    ):
        found = subprocess.run(  # noqa: S602 - a shell alone closes streams
            f"{command} {arguments} {streams}",
            shell=True,
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (found.returncode, "Traceback" in found.stderr) == (code, False), (arguments, found.stderr)


def test_run_starts_several_processes(tmp_path: Path) -> None:
    """With workers everything is said once, and calls without a key are the caller's of this machine as well."""
    with started(tmp_path, *RUN, "--workers", "2") as process:
        text = read_until(process, r"^Stop with")
        address = re.search(r"grpc=(\S+)", text)
        assert address is not None
        listed = [ended(tmp_path, "connections", "list", "--json", "--server", address[1]) for _ in range(2)]
        stop(process, signal.SIGINT)
    assert text.count("zoomgate: ready") == 1
    assert [result.returncode for result in listed] == [0, 0]


@pytest.mark.parametrize("content", ["", "zgk_short", "secret"])
def test_a_damaged_key_is_no_key(tmp_path: Path, content: str) -> None:
    """An empty or foreign key file would let in whoever guesses it: the start is refused, in one sentence."""
    (tmp_path / ".zoomgate").mkdir()
    file = tmp_path / ".zoomgate" / "caller.key"
    file.write_text(content)
    file.chmod(0o600)
    result = ended(tmp_path, "run", *FREE, environ=ZOOM)
    assert result.returncode == 1
    assert result.stderr == (
        "zoomgate: .zoomgate/caller.key holds no key: delete it, and the next start makes a new one\n"
    )
    assert list((tmp_path / ".zoomgate").iterdir()) == [file]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key file that is open to other users does not count."""
    (tmp_path / ".zoomgate").mkdir()
    file = tmp_path / ".zoomgate" / "caller.key"
    file.write_text(f"zgk_{'a' * 43}")
    file.chmod(0o644)
    result = ended(tmp_path, "run", *FREE, environ=ZOOM)
    assert result.returncode == 1
    assert "open to other users" in result.stderr


@pytest.mark.parametrize("taken", ["--listen", "--http-listen", "--simulator-listen"])
def test_a_taken_port_is_said_and_nothing_is_left_behind(tmp_path: Path, taken: str) -> None:
    """One sentence with the setting, exit code 1, and no file or folder made."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        result = ended(tmp_path, *RUN, taken, f"127.0.0.1:{other.getsockname()[1]}")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "cannot listen on" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_log_level_that_was_set_counts(tmp_path: Path) -> None:
    """`run` does not decide about the level over the head of the environment."""
    with started(tmp_path, *RUN, environ={"ZOOMGATE_LOG_LEVEL": "error"}) as process:
        read_until(process, r"^Stop with")
        _, log = stop(process)
    assert log == ""


def test_serve_needs_no_folder_but_its_own(tmp_path: Path) -> None:
    """The service starts from a TOML file alone, prints its line, and ends with 0 on SIGTERM."""
    assert ended(tmp_path, "callers", "add", "ops", "--role", "admin").returncode == 0
    (tmp_path / "z.toml").write_text(
        'listen = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\ndata_dir = "data"\ncallers = "callers.toml"\n'
        'client_id = "app"\nclient_secret = "hush"\n'
    )
    with started(tmp_path, "serve", environ={"ZOOMGATE_CONFIG": "z.toml"}) as process:
        read_until(process, r"^zoomgate: ready grpc=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+$")
        stop(process)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["callers.toml", "data", "z.toml"]


def test_serve_lists_what_is_wrong_in_the_callers_file(tmp_path: Path) -> None:
    """A callers file that is not understood refuses the start, with line and reason, and changes nothing."""
    (tmp_path / "callers.toml").write_text('[[callers]]\nname = "A"\nrole = "x"\n')
    result = ended(tmp_path, "serve", *FREE, environ=ZOOM | {"ZOOMGATE_CALLERS": "callers.toml"})
    assert result.returncode == 1
    assert [line.partition(" must")[0] for line in result.stderr.splitlines()] == [
        "zoomgate: ZOOMGATE_CALLERS: callers.toml:2: name",
        "zoomgate: ZOOMGATE_CALLERS: callers.toml:1: key_sha256",
        "zoomgate: ZOOMGATE_CALLERS: callers.toml:3: role",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["callers.toml"]


def test_the_simulator_runs_alone(tmp_path: Path) -> None:
    """The simulated Zoom says where it is, and stops when told."""
    with started(tmp_path, "simulator", "--listen", "127.0.0.1:0") as process:
        read_until(process, r"^zoom_simulator: ready http=127\.0\.0\.1:\d+$")
        stop(process)
