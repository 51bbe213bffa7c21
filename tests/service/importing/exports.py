"""People who consented elsewhere: a simulated Zoom that knows their tokens, and the files in which these come."""

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
class Person:
    """Somebody's row.

    Attributes:
        user: Address.
        access: Access token.
        refresh: Refresh token.
        updated: Seconds since 1970.
    """

    user: str
    access: str
    refresh: str
    updated: float = field(default_factory=time.time)

    @property
    def velo(self) -> dict[str, Any]:
        """The item of the collection `ZoomUsers`."""
        return {
            "_id": "7b1c",
            "userEmail": self.user,
            "access_token": self.access,
            "expires_in": 3600,
            "scope": SCOPE,
            "refresh_token": self.refresh,
            "token_type": "bearer",
            "_updatedDate": iso(self.updated),
        }

    @property
    def line(self) -> dict[str, Any]:
        """The line of our own format."""
        return {
            "user_email": self.user,
            "access_token": self.access,
            "refresh_token": self.refresh,
            "scope": SCOPE,
            "expires_at": iso(self.updated + 3600),
            "updated_at": self.updated,
        }

    @property
    def nango(self) -> dict[str, Any]:
        """The connection as Nango gives it."""
        return {
            "id": 1,
            "connection_id": f"c-{self.user}",
            "provider": "zoom",
            "provider_config_key": "zoom",
            "updated_at": iso(self.updated),
            "end_user": {"id": "u1", "email": self.user},
            "credentials": {
                "type": "OAUTH2",
                "access_token": self.access,
                "refresh_token": self.refresh,
                "expires_at": iso(self.updated + 3600),
                "raw": {"scope": SCOPE, "token_type": "bearer", "expires_in": 3600},
            },
        }


def iso(time: float) -> str:
    """Write a time as JavaScript does."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def consented(zoom: RunningSimulator, user: str, *, expired: bool = True) -> Person:
    """Let somebody consent, and give what the other software kept."""
    tokens = zoom.connect(user)
    person = Person(user, tokens.access_token, tokens.refresh_token)
    return aged(zoom, person) if expired else person


def aged(zoom: RunningSimulator, person: Person) -> Person:
    """Let the access token of somebody expire."""
    zoom.expire(person.user)
    return replace(person, updated=time.time() - 7200)


def as_csv(people: Iterable[Person], columns: Iterable[str] = COLUMNS, delimiter: str = ",") -> str:
    """The collection as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(person.velo for person in people)
    return text.getvalue()


@dataclass(frozen=True)
class Place:
    """A folder in which `zoomgate` is run as a process of its own, with settings that lead to a simulated Zoom.

    Attributes:
        folder: Where it is run.
        environ: Its environment.
    """

    folder: Path
    environ: dict[str, str]

    @classmethod
    def of(cls, folder: Path, zoom: RunningSimulator, **settings: str) -> "Place":
        """Give a place; `settings` are more of them."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ZOOMGATE_")}
        environ = {
            "ZOOMGATE_DATA_DIR": str(folder / "data"),
            "ZOOMGATE_CLIENT_ID": zoom.client_id,
            "ZOOMGATE_CLIENT_SECRET": zoom.client_secret,
            "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        }
        return cls(folder, kept | environ | settings)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write an export as its owner keeps it."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        return path

    def run(self, *arguments: str, code: int = 0, module: str = "zoomgate_server") -> "Ran":
        """Run `zoomgate`, or what starts it in another way."""
        found = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert found.returncode == code, (found.returncode, found.stdout, found.stderr)
        assert "Traceback" not in found.stderr, found.stderr
        assert "sim-" not in found.stdout + found.stderr, "a token was printed"
        return Ran(found.stdout, found.stderr)

    def results(self, name: str) -> list[dict[str, Any]]:
        """What became of each row, in the order in which that was noted."""
        text = (self.folder / f"{name}.results.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()[1:]]

    def verdicts(self, name: str) -> list[str]:
        """What became of each row in the end, in the order of the rows."""
        latest = {entry["row"]: entry["verdict"] for entry in self.results(name)}
        return [latest[row] for row in sorted(latest)]


@dataclass(frozen=True)
class Ran:
    """What a command printed."""

    out: str
    err: str

    @property
    def counts(self) -> dict[str, Any]:
        """The JSON object."""
        found: dict[str, Any] = json.loads(self.out)
        return found
