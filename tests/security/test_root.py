"""Tests for commands that root runs on files of another user, who replaces these files by links to files of root."""

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import zoomgate_server
from security.attacked_command import ATTACKS, USER
from support.harness import MONICA, caller_key, running
from zoomgate_server import private_file
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage import backup
from zoomgate_server.storage.sqlite import SqliteStore

TESTS = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users"),
    pytest.mark.skipif(
        not all(folder.stat().st_mode & stat.S_IXOTH for folder in TESTS.parents),
        reason="other users cannot read this checkout, which the commands run from",
    ),
    pytest.mark.timeout(600),
]

COMMANDS = {
    "callers add to a file": "callers add calendar --role service --file {data}/callers.toml",
    "callers add to a new file": "callers add calendar --role service --file {data}/new.toml",
    "doctor": "doctor",
    "import": "import jsonl {data}/users.jsonl",
    "keys list": "keys list",
    "keys new": "keys new {data}/new.json",
    "keys reencrypt": "keys reencrypt",
    "keys retire": "keys retire {old_key} --yes",
    "keys rotate": "keys rotate --now",
    "prune": "prune",
    "run": "run --simulator-listen 127.0.0.1:0",
    "store adopt": "store adopt --yes",
    "store backup": "store backup {data}/backup.db",
    "store restore": "store restore {data}/monday.db",
}
FAST = {"callers add to a file"}


@dataclass(frozen=True)
class Result:
    """The result of `security.attacked_command`."""

    code: int
    output: str
    owners: list[int]
    attacks: int
    changes: list[str]


@dataclass(frozen=True)
class TwoUsers:
    """Directories of two users.

    Attributes:
        folder: Directory of root, which every user can read: `outside` belongs to root, `user` to another user.
        initial: The initial content of `user`.
    """

    folder: Path

    @property
    def data(self) -> Path:
        """The data directory of the service."""
        return self.folder / "user/data"

    async def prepare(self) -> None:
        """Create the initial files: a store, a backup, a key ring with a key to retire, a callers file and an audit trail."""
        data = self.folder / "initial/data"
        ring, store = data / "keys.json", data / "zoomgate.db"
        key_file.create(ring)
        added = key_file.add(ring, key_file.load(ring))
        key_file.promote(ring, key_file.load(ring), added)
        os.utime(ring, (0, 0))  # otherwise `keys retire` requires a pause
        opened = await SqliteStore.open(store, time.time)
        await key_check.verify(opened, Envelope(app="app", keys=key_file.load(ring)))
        await opened.close()
        backup.copy_file(store, data / "monday.db", lambda _: None)
        for name in ("audit.jsonl", "callers.toml"):
            private_file.create(data / name, b"")

    def run(self, command: str, attacks: str = "none", **environ: str) -> Result:
        """Run a command as root; with `all`, also attack it before each of its file operations. See `security.attacked_command`."""
        arguments = ("-m", "security.attacked_command", str(self.folder), attacks, *command.split())
        process = self._python(*arguments, **environ)
        assert process.returncode == 0, process.stdout + process.stderr
        return Result(**json.loads(process.stdout.splitlines()[-1]))

    def rejected(self, *arguments: str, **environ: str) -> str:
        """Run a command as root; assert that it fails without creating a file, and return its message."""
        files = set(self.folder.rglob("*"))
        process = self._python("-m", "zoomgate_server", *arguments, **environ)
        assert (process.returncode, process.stdout) == (1, ""), process.stderr
        assert set(self.folder.rglob("*")) == files
        return process.stderr.removeprefix("zoomgate: ")

    def _python(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("ZOOMGATE_", "SUDO_"))
        }
        settings = {
            "ZOOMGATE_DATA_DIR": str(self.data),
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=inherited | {"PYTHONPATH": str(TESTS)} | settings | environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def users() -> Iterator[TwoUsers]:
    """Create the directories of two users, in a place that both can reach."""
    folder = Path(tempfile.mkdtemp(prefix="zoomgate-root-"))
    folder.chmod(0o755)
    outside = folder / "outside"
    for directory in (outside, outside / "directory", folder / "initial", folder / "initial/data"):
        directory.mkdir(mode=0o755)
    for name in ("file", "empty"):
        (outside / name).touch(0o640)
    (outside / "file").write_text("root's file", encoding="utf-8")
    yield TwoUsers(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=() if command in FAST else pytest.mark.slow) for command in COMMANDS],
)
async def test_links_in_the_files_of_another_user_do_not_harm_root(
    users: TwoUsers, tmp_path: Path, command: str
) -> None:
    """Root's command succeeds as the owner of the files. Links that this user creates at any step do not change root's files."""
    await users.prepare()
    initial, environ = users.folder / "initial/data", {}
    old_key = key_file.load(initial / "keys.json").keys[0].key_id
    if command == "store restore":
        environ = {"ZOOMGATE_STORE": f"sqlite:///{users.data}/restored.db"}
    if command == "store adopt":
        private_file.create_folder(initial / "journal")
        private_file.create(initial / "journal/app.store", b"previous-store\napp")
    async with running(tmp_path) as service:
        if command == "import":
            environ = {"ZOOMGATE_SERVER": service.grpc_address, "ZOOMGATE_KEY": caller_key("service")}
            row = {"user_email": MONICA, "refresh_token": service.simulator.connect(MONICA).refresh_token}
            private_file.create(initial / "users.jsonl", json.dumps(row).encode())
        arguments = COMMANDS[command].format(data=users.data, old_key=old_key)
        result = await asyncio.to_thread(users.run, arguments, "all", **environ)
    assert result.changes == []
    assert result.attacks >= 2 * len(ATTACKS)
    assert result.code == 0, result.output
    assert f"zoomgate: running as nobody, the owner of {users.folder}/user\n" in result.output
    assert result.owners == [USER]


async def test_audit_trail_names_root_and_the_user_that_a_command_runs_as(users: TwoUsers) -> None:
    """As with sudo, the principal is the user that the command runs as, on behalf of the user that started the command."""
    await users.prepare()
    users.run("keys rotate")
    line = json.loads((users.data / "audit.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (line["action"], line["principal"], line["on_behalf_of"]) == ("keys.added", "nobody", "root")


def test_link_of_root_to_files_of_another_user_is_followed(users: TwoUsers) -> None:
    """The path of a file ends in a directory of another user."""
    (users.folder / "link").symlink_to("user")
    result = users.run(f"keys new {users.folder}/link/data/new.json")
    assert result.code == 0, result.output
    assert f"running as nobody, the owner of {users.folder}/user\n" in result.output
    assert result.owners == [USER]


def test_link_of_another_user_to_files_of_root_is_not_used(users: TwoUsers) -> None:
    """The path of a file ends in a directory of root, but another user chose that directory."""
    (users.folder / "initial/link").symlink_to(users.folder / "outside/directory")
    result = users.run(f"keys new {users.folder}/user/link/new.json")
    assert result.code == 1
    assert f"running as nobody, the owner of {users.folder}/user\n" in result.output
    assert not list((users.folder / "outside/directory").iterdir())


def test_settings_file_of_another_user_cannot_choose_files_of_root(users: TwoUsers) -> None:
    """All configured files belong to root, but another user chose them."""
    outside = users.folder / "outside"
    (users.folder / "initial/zoomgate.toml").write_text(
        f'data_dir = "{outside}/directory"\naudit = "{outside}/file"\n', encoding="utf-8"
    )
    before = (outside / "file").read_bytes()
    environ = {"ZOOMGATE_CONFIG": f"{users.folder}/user/zoomgate.toml", "ZOOMGATE_DATA_DIR": ""}
    result = users.run("keys new", **environ)
    assert result.code == 1
    assert f"running as nobody, the owner of {users.folder}/user\n" in result.output
    assert (outside / "file").read_bytes() == before
    assert not list((outside / "directory").iterdir())


def test_settings_file_of_another_user_cannot_read_secrets_of_root(users: TwoUsers) -> None:
    """Otherwise the command would send any file of root to the server that the settings name."""
    secret = users.folder / "outside/file"
    (users.folder / "initial/zoomgate.toml").write_text(
        f'client_id = "app"\nclient_secret_file = "{secret}"\n', encoding="utf-8"
    )
    result = users.run("keys list", ZOOMGATE_CONFIG=f"{users.folder}/user/zoomgate.toml")
    assert result.code == 1
    assert "refers to a file that cannot be read (Permission denied)" in result.output


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_root_does_not_write_to_a_directory_that_other_users_can_write_to(users: TwoUsers, mode: int) -> None:
    """The owner of such a directory is not the only user who can replace its files."""
    shared = users.folder / "shared"
    shared.mkdir()
    shared.chmod(mode)
    message = users.rejected("keys", "new", f"{shared}/keys.json")
    assert message.startswith(f"{shared} is writable by other users, ")
    assert (
        "use a directory to which only root can write, or run this command as the service's user" in message
    )
    assert "chmod" not in message  # the directory may be /tmp
    process = users.run("doctor", ZOOMGATE_DATA_DIR=f"{shared}/data")
    assert process.code == 1
    assert process.output.startswith(f"FAIL  settings        {shared} is writable by other users, ")


def test_root_does_not_write_to_an_existing_file_in_a_shared_directory(users: TwoUsers) -> None:
    """A file of root in a directory such as /tmp may be a hard link that another user created."""
    shared = users.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "audit.jsonl").hardlink_to(users.folder / "outside/empty")
    own = users.folder / "outside/directory"
    message = users.rejected(
        "keys", "rotate", ZOOMGATE_DATA_DIR=str(own), ZOOMGATE_AUDIT=str(shared / "audit.jsonl")
    )
    assert message.startswith(f"{shared} is writable by other users, ")


def test_user_without_a_name_is_rejected(users: TwoUsers) -> None:
    """The groups of such a user are unknown."""
    (users.folder / "user").mkdir()
    os.chown(users.folder / "user", 54_321, 54_321)
    message = users.rejected("keys", "new", f"{users.folder}/user/keys.json")
    assert message == f"{users.folder}/user belongs to user 54321; run this command as that user\n"


def test_user_who_cannot_read_the_program_is_rejected(users: TwoUsers) -> None:
    """Such a user cannot run a command, because its modules are imported when they are needed."""
    program = users.folder / "program"
    program.mkdir(mode=0o700)
    shutil.copytree(Path(zoomgate_server.__file__).parent, program / "zoomgate_server")
    (users.folder / "user").mkdir()
    os.chown(users.folder / "user", USER, USER)
    message = users.rejected("keys", "new", f"{users.folder}/user/keys.json", PYTHONPATH=str(program))
    assert (
        f"who cannot read {program}/zoomgate_server/cli; install Zoomgate where this user can read it"
        in message
    )


def test_loop_of_links_is_rejected(users: TwoUsers) -> None:
    """The search for the owner of a path ends."""
    (users.folder / "loop").symlink_to("loop")
    message = users.rejected("keys", "new", f"{users.folder}/loop/keys.json")
    assert message == f"{users.folder}/loop/keys.json contains a loop of symbolic links; correct the path\n"
