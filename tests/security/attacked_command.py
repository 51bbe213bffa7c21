"""A command that root runs on files of another user, who attacks it: `python -m security.attacked_command FOLDER ATTACKS COMMAND…`.

The command runs once without an attack, and then, if ATTACKS is `all`, once for each attack and each of its file operations. Immediately
before that operation, a second process replaces files in FOLDER/user by links to FOLDER/outside, which belongs to root. The result is
printed as JSON: the exit code, the output and the owners of the files without an attack; the number of attacks; and the changes outside.

Each run is a fork of this process, which has imported all modules: the user may be unable to read them.
"""

import importlib
import itertools
import json
import os
import pkgutil
import selectors
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoom_simulator
import zoomgate_server
from zoomgate_server.cli import main

USER = 65534
MAX_SECONDS = 60
"""The time after which a run is killed, such as an import whose results are appended to the imported file."""

EVENTS = frozenset(
    {
        "open",
        "fcntl.flock",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.truncate",
        "sqlite3.connect",
        "sqlite3.connect/handle",
    }
)
"""The audit events of file operations, raised before the system call. See the audit events table of the Python documentation."""

NEW_FILES = (
    "audit.jsonl",
    "backup.db",
    "caller.key",
    "member.key",
    "new.json",
    "new.toml",
    "restored.db",
    "restored.db-wal",
    "users.jsonl.results.jsonl",
    "zoomgate.db-journal",
    "zoomgate.db-shm",
    "zoomgate.db-wal",
)
"""Names of files in the user's directory that commands create."""


def replace_files(folder: Path, link: Callable[[Path, Path], None], target: str) -> None:
    """Replace all files of the user, including temporary files, by links to a file of root."""
    data = folder / "user/data"
    for path in {*data.rglob("*"), *(data / name for name in NEW_FILES)}:
        if not path.is_dir():
            path.unlink(missing_ok=True)
            link(path, folder / "outside" / target)


def replace_directory(folder: Path) -> None:
    """Replace the user's directory by a link to a directory of root."""
    (folder / "user/data").rename(folder / "user/moved")
    (folder / "user/data").symlink_to(folder / "outside/directory")


ATTACKS: dict[str, Callable[[Path], None]] = {
    "symbolic links": lambda folder: replace_files(folder, Path.symlink_to, "file"),
    "symbolic links to an empty file": lambda folder: replace_files(folder, Path.symlink_to, "empty"),
    "symbolic links to a missing file": lambda folder: replace_files(folder, Path.symlink_to, "missing"),
    "hard links": lambda folder: replace_files(folder, Path.hardlink_to, "file"),
    "hard links to an empty file": lambda folder: replace_files(folder, Path.hardlink_to, "empty"),
    "directory": replace_directory,
}


def attack(folder: Path, name: str) -> None:
    """Attack as the user, in a second process. Hard links are created by root, as by the user where `fs.protected_hardlinks` is 0."""
    process = os.fork()
    if process == 0:
        if not name.startswith("hard"):
            become_user()
        ATTACKS[name](folder)
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0


def become_user() -> None:
    """Drop root's privileges."""
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)


class Hook:
    """An audit hook that counts file operations, and pauses one of them until the attack is complete."""

    def __init__(self, folder: Path, paused: int, request: int, response: int) -> None:
        self._folder = str(folder)
        self._paused, self._request, self._response = paused, request, response
        self._operations = itertools.count()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Handle an audit event."""
        if event not in EVENTS or not any(self._concerns(argument) for argument in arguments[:2]):
            return
        if next(self._operations) == self._paused:
            os.write(self._request, b".")
            os.read(self._response, 1)

    def _concerns(self, argument: object) -> bool:
        """Return whether an argument is a file descriptor or a path in the folder."""
        if isinstance(argument, str | bytes | os.PathLike):
            return self._folder in os.fsdecode(argument)
        return isinstance(argument, int) and argument > 2


def run(folder: Path, name: str, paused: int, arguments: list[str]) -> tuple[bool, int, str]:
    """Run a command with an attack before the operation with this number.

    Returns:
        Whether the operation was reached, the exit code, and the output. A service is stopped when it is ready.
    """
    (request, requested), (responded, response), (output, written) = os.pipe(), os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        os.close(request)
        os.close(response)
        for stream in (1, 2):
            os.dup2(written, stream)
        os.close(written)
        signal.alarm(MAX_SECONDS)
        sys.addaudithook(Hook(folder, paused, requested, responded))
        os._exit(execute(arguments))
    for descriptor in (requested, responded, written):
        os.close(descriptor)
    attacked, text = False, ""
    with selectors.DefaultSelector() as selector:
        selector.register(request, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while output in selector.get_map():
            for key, _ in selector.select():
                content = os.read(key.fd, 65536)
                if not content:
                    selector.unregister(key.fd)
                elif key.fd == request:
                    attacked = True
                    attack(folder, name)
                    os.write(response, b".")
                else:
                    text += content.decode()
                    if "zoomgate: ready" in text:
                        os.kill(process, signal.SIGTERM)
    for descriptor in (request, response, output):
        os.close(descriptor)
    return attacked, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text


def execute(arguments: list[str]) -> int:
    """Run a command in this process; return its exit code."""
    sys.argv = ["zoomgate", *arguments]
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:  # noqa: BLE001 - reported to the test
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def restore(folder: Path) -> None:
    """Restore the initial files of the user."""
    shutil.rmtree(folder / "user", ignore_errors=True)
    shutil.copytree(folder / "initial", folder / "user", symlinks=True)
    for path in (folder / "user", *(folder / "user").rglob("*")):
        os.lchown(path, USER, USER)


def state(folder: Path) -> dict[str, str]:
    """Return owner, mode and content of all files outside the user's directory."""
    files = {}
    for path in (folder / "outside").rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        files[path.name] = f"{status.st_uid}:{status.st_gid} {status.st_mode:o} {content[:100]!r}"
    return files


def preload() -> None:
    """Import all modules of the product, and what they would import later."""
    for package in (zoomgate_server, zoom_simulator):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in ("encodings.idna", "encodings.utf_8_sig", "asyncio.base_subprocess", "rich.progress"):
        importlib.import_module(name)


def attack_command() -> None:
    """Run the command without an attack, and with each attack."""
    folder, attacks, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    preload()
    before, count, changes = state(folder), 0, []
    restore(folder)
    _, code, output = run(folder, "", -1, arguments)
    owners = sorted({path.lstat().st_uid for path in (folder / "user").rglob("*")})
    for name in ATTACKS if attacks == "all" else ():
        for operation in itertools.count():
            restore(folder)
            attacked, _, _ = run(folder, name, operation, arguments)
            if not attacked:
                break
            count += 1
            if state(folder) != before:
                changes.append(f"{name} before operation {operation}: {state(folder)}")
                break
    result = {"code": code, "output": output, "owners": owners, "attacks": count, "changes": changes}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    attack_command()
