"""Users of another system, exports of their tokens, and a workspace for running imports."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.harness import Harness, caller_key
from zoom_simulator.testing import RunningSimulator

COLUMNS = (
    "_id",
    "userEmail",
    "access_token",
    "expires_in",
    "scope",
    "refresh_token",
    "token_type",
    "_updatedDate",
)
SCOPE = "user:read:user meeting:write:meeting"


@dataclass(frozen=True)
class ExportedUser:
    """The tokens of a user in another system.

    Attributes:
        email: The email address.
        access: The access token.
        refresh: The refresh token.
        updated: Time of the last update of the tokens, in seconds since 1970.
    """

    email: str
    access: str
    refresh: str
    updated: float = field(default_factory=time.time)

    @property
    def velo(self) -> dict[str, Any]:
        """The user's item in the collection `ZoomUsers`."""
        return {
            "_id": "7b1c",
            "userEmail": self.email,
            "access_token": self.access,
            "expires_in": 3600,
            "scope": SCOPE,
            "refresh_token": self.refresh,
            "token_type": "bearer",
            "_updatedDate": iso(self.updated),
        }

    @property
    def line(self) -> dict[str, Any]:
        """The user's line in the format `jsonl`."""
        return {
            "user_email": self.email,
            "access_token": self.access,
            "refresh_token": self.refresh,
            "scope": SCOPE,
            "expires_at": iso(self.updated + 3600),
            "updated_at": self.updated,
        }

    @property
    def nango(self) -> dict[str, Any]:
        """The user's connection as returned by Nango."""
        return {
            "id": 1,
            "connection_id": f"c-{self.email}",
            "provider": "zoom",
            "provider_config_key": "zoom",
            "updated_at": iso(self.updated),
            "end_user": {"id": "u1", "email": self.email},
            "credentials": {
                "type": "OAUTH2",
                "access_token": self.access,
                "refresh_token": self.refresh,
                "expires_at": iso(self.updated + 3600),
                "raw": {"scope": SCOPE, "token_type": "bearer", "expires_in": 3600},
            },
        }


def iso(time: float) -> str:
    """Format a time as JavaScript does."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exported_user(zoom: RunningSimulator, email: str, *, expired: bool = True) -> ExportedUser:
    """Grant consent for a user in the Zoom simulator, and return the tokens as stored by the other system."""
    tokens = zoom.connect(email)
    user = ExportedUser(email, tokens.access_token, tokens.refresh_token)
    return with_expired_access_token(zoom, user) if expired else user


def with_expired_access_token(zoom: RunningSimulator, user: ExportedUser) -> ExportedUser:
    """Expire the user's access token in the simulator, and return the user with an earlier update time."""
    zoom.expire(user.email)
    return replace(user, updated=time.time() - 7200)


def as_csv(users: Iterable[ExportedUser], columns: Iterable[str] = COLUMNS, delimiter: str = ",") -> str:
    """Return the collection `ZoomUsers` as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(user.velo for user in users)
    return text.getvalue()


@dataclass(frozen=True)
class Workspace:
    """A working directory for running `zoomgate` as a process, with the address and a key of a service."""

    folder: Path
    environ: dict[str, str]

    @classmethod
    def of(cls, folder: Path, service: Harness, caller: str = "service") -> "Workspace":
        """Return a workspace in which commands call a service."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZOOMGATE_")}
        environ = {"ZOOMGATE_SERVER": service.grpc_address, "ZOOMGATE_KEY": caller_key(caller)}
        return cls(folder, inherited | environ | {"PYTHONPATH": str(Path(__file__).parents[2])})

    def write(self, name: str, content: str | bytes) -> Path:
        """Write an export that only its owner can read."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        return path

    async def run(
        self,
        *arguments: str,
        code: int = 0,
        module: str = "zoomgate_server",
        max_file_blocks: int | None = None,
    ) -> "CommandOutput":
        """Run `zoomgate` or a module that starts it; assert its exit code and that its output contains no tokens or tracebacks.

        Args:
            max_file_blocks: The maximum size of a file that the command writes, in blocks of 512 or 1024 bytes.
        """
        command = [sys.executable, "-m", module, *arguments]
        if max_file_blocks is not None:
            command = ["sh", "-c", f'ulimit -f {max_file_blocks}; exec "$@"', "sh", *command]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = (text.decode() for text in await process.communicate())
        assert process.returncode == code, (process.returncode, out, err)
        assert "Traceback" not in err, err
        assert "sim-" not in out + err, "a token was printed"
        return CommandOutput(out, err)

    def results(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of an export's results file, in the order in which they were written."""
        text = (self.folder / f"{name}.results.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()[1:]]

    def statuses(self, name: str) -> list[str]:
        """Return the latest status of each row of an export, in the order of the rows."""
        latest = {entry["row"]: entry["status"] for entry in self.results(name)}
        return [latest[row] for row in sorted(latest)]


@dataclass(frozen=True)
class CommandOutput:
    """The output of a command."""

    out: str
    err: str

    @property
    def counts(self) -> dict[str, Any]:
        """The counts that the command prints as a JSON object."""
        counts: dict[str, Any] = json.loads(self.out)
        return counts
