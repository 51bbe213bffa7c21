"""Tests for commands, with click's test runner and, if needed, a running service."""

import contextlib
import hashlib
import json
import re
import socket
import sqlite3
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import Result
from pymongo import MongoClient

from support.command_line import command, stderr_of, stdout_of, zoomgate
from support.harness import MONICA, OMAR, Harness, caller_key, running
from support.raw_upstream import http_response, raw_upstream
from zoom_simulator.faults import ENDPOINTS, KINDS
from zoom_simulator.webhooks import EVENTS
from zoomgate_server.encryption import key_file
from zoomgate_server.identity import Role
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS
from zoomgate_server.settings import VELO_SECRET, WEBHOOK_SECRET

COMMANDS = (
    "run",
    "serve",
    "simulator",
    "simulator fault",
    "simulator expire",
    "simulator rename",
    "simulator event",
    "simulator play",
    "simulator stats",
    "connect",
    "connections list",
    "connections show",
    "connections refresh",
    "connections delete",
    "callers add",
    "callers list",
    "callers rotate",
    "callers remove-key",
    "callers remove",
    "keys new",
    "keys list",
    "keys rotate",
    "keys reencrypt",
    "keys retire",
    "store backup",
    "store restore",
    "store adopt",
    "meetings create",
    "meetings get",
    "meetings delete",
    "proxy get",
    "proxy delete",
    "proxy post",
    "proxy patch",
    "proxy put",
    "proxy pages",
    "proxy download",
    "token check",
    "token get",
    "doctor",
    "completion",
)

APP = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET": "hush"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str) -> None:
    text = stdout_of(zoomgate(*command.split(), "--help"))
    assert f"zoomgate {command.split(maxsplit=1)[0]}" in text
    assert "Example: " in text


@pytest.mark.parametrize(
    ("command", "choices"), [("event", EVENTS), ("fault", (*ENDPOINTS, "off")), ("fault", KINDS)]
)
def test_help_of_the_simulator_lists_the_choices(command: str, choices: Sequence[str]) -> None:
    text = " ".join(stdout_of(zoomgate("simulator", command, "--help")).split())
    assert f": {', '.join(choices)}. " in text


@pytest.mark.parametrize("group", sorted({name.partition(" ")[0] for name in COMMANDS if " " in name}))
def test_summaries_of_commands_fit_on_a_terminal(group: str) -> None:
    summaries = stdout_of(zoomgate(group, "--help")).partition("Commands:")[2]
    assert summaries
    assert "..." not in summaries


def test_help_of_setting_options_contains_the_settings() -> None:
    text = stdout_of(zoomgate("serve", "--help"))
    for option, setting in (("--listen", "LISTEN"), ("--http-listen", "HTTP_LISTEN"), ("--store", "STORE")):
        assert option in text
        assert f"[ZOOMGATE_{setting}]" in " ".join(text.split())
    assert "Default: sqlite:///.zoomgate/zoomgate.db. [ZOOMGATE_STORE]" in " ".join(text.split())
    assert "Default: 127.0.0.1:50051. [ZOOMGATE_LISTEN]" in " ".join(text.split())


@pytest.mark.parametrize("command", ["serve", "run"])
@pytest.mark.parametrize(
    ("uri", "is_visible"),
    [
        ("mongodb://monica:hunter2@127.0.0.1/z", True),
        ("mongodb+srv://monica:hunter2@db.example/z?w=majority", True),
        ("mongodb://monica@127.0.0.1:27017/z", False),
        ("mongodb://127.0.0.1:27017/z", False),
        ("sqlite:///a:b@c.db", False),
    ],
)
def test_password_in_an_option_causes_a_warning(command: str, uri: str, is_visible: bool) -> None:
    """All users of a machine can see the arguments of its processes. The warning does not repeat the password."""
    environ = {"ZOOMGATE_LOG_LEVEL": "invalid"}  # ends the command
    errors = stderr_of(zoomgate(command, "--store", uri, environ=environ))
    assert ("--store contains a password" in errors) is is_visible
    assert "hunter2" not in errors
    errors = stderr_of(zoomgate(command, environ=environ | {"ZOOMGATE_STORE": uri}))
    assert "contains a password" not in errors


class TestCallersAdd:
    """Tests for `zoomgate callers add`."""

    def test_key_is_printed_and_only_its_digest_is_stored(self, folder: Path) -> None:
        """Standard output contains only the key; the callers file has mode 0600."""
        key = stdout_of(
            zoomgate(
                "callers",
                "add",
                "calendar",
                *("--role", "service", "--users", "*@example.com", "--users", "omar@other.example"),
                *("--methods", "AuthService.*", "--access-tokens", "--proxy-path", "/users/me/**"),
            )
        ).strip()
        file = folder / "callers.toml"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert key.startswith("zgk_")
        assert key not in file.read_text()
        ((key_sha256, principal),) = callers_file.load(file, CALLABLE_METHODS).items()
        assert key_sha256 == hashlib.sha256(key.encode()).hexdigest()
        assert (principal.name, principal.access_tokens, principal.refresh_tokens) == (
            "calendar",
            True,
            False,
        )
        assert principal.users.matches("anybody@example.com")
        assert principal.proxy_paths == ("/users/me/**",)

    def test_entries_are_appended_to_the_file(self, folder: Path) -> None:
        """Comments, existing entries and the mode are preserved; the mode can grant the service access through the file's group."""
        file = folder / "own.toml"
        file.write_text("# ours\n")
        file.chmod(0o640)
        stdout_of(zoomgate("callers", "add", "ops", "--role", "admin", "--file", "own.toml"))
        stdout_of(
            zoomgate("callers", "add", "monica", "--role", "member", "--email", MONICA, "--file", "own.toml")
        )
        assert file.read_text().startswith("# ours\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        callers = callers_file.load(file, CALLABLE_METHODS)
        assert [principal.roles for principal in callers.values()] == [{Role.ADMIN}, {Role.MEMBER}]
        assert sorted(path.name for path in folder.iterdir()) == ["own.toml"]

    def test_target_of_a_symbolic_link_is_replaced(self, folder: Path) -> None:
        (folder / "real").mkdir()
        (folder / "real" / "callers.toml").touch()
        (folder / "callers.toml").symlink_to("real/callers.toml")
        stdout_of(zoomgate("callers", "add", "ops", "--role", "admin"))
        assert (folder / "callers.toml").is_symlink()
        assert "ops" in (folder / "real" / "callers.toml").read_text()

    def test_default_file_comes_from_the_settings(self, folder: Path) -> None:
        """The path of the callers file can be set in the environment and in the settings file."""
        (folder / "z.toml").write_text('callers = "from-file.toml"\n')
        stdout_of(
            zoomgate("callers", "add", "a", "--role", "admin", environ={"ZOOMGATE_CALLERS": "from-env.toml"})
        )
        stdout_of(zoomgate("callers", "add", "a", "--role", "admin", environ={"ZOOMGATE_CONFIG": "z.toml"}))
        assert {"from-env.toml", "from-file.toml"} <= {path.name for path in folder.iterdir()}
        text = stderr_of(zoomgate("callers", "add", "a", "--role", "admin", environ={"ZOOMGATE_LISTN": "x"}))
        assert "specify the file with --file" in text

    def test_service_without_users_causes_a_warning(self) -> None:
        assert "a has no users yet" in zoomgate("callers", "add", "a", "--role", "service").stderr
        assert "no users" not in zoomgate("callers", "add", "b", "--role", "service", "--users", "*").stderr

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["Calendar", "--role", "service"], "NAME must be"),
            (['a"\nrole = "admin', "--role", "service"], "NAME must be"),
            (["taken", "--role", "service"], "already contains a caller taken"),
            (["a", "--role", "member"], "--email is required"),
            (["a", "--role", "member", "--email", 'x@example.com"'], "--email contains a domain"),
            (["a", "--role", "admin", "--access-tokens"], "--access-tokens is for services only; omit it"),
            (["a", "--role", "admin", "--email", MONICA], "--email is for members only; omit it"),
            (["a", "--role", "service", "--users", "*@*"], "--users contains '*@*'"),
            (["a", "--role", "service", "--users", "foo"], "exactly one @; use an address such as"),
            (["a", "--role", "service", "--users", "\udcff"], "--users contains"),
            (["a", "--role", "service", "--methods", "Nope.*"], "--methods contains 'Nope.*'"),
        ],
    )
    def test_invalid_entry_is_not_written(self, folder: Path, arguments: Sequence[str], reason: str) -> None:
        """The callers file does not change, and no key is printed."""
        stdout_of(zoomgate("callers", "add", "taken", "--role", "admin"))
        before = (folder / "callers.toml").read_bytes()
        assert reason in stderr_of(zoomgate("callers", "add", *arguments))
        assert (folder / "callers.toml").read_bytes() == before
        assert len(list(folder.iterdir())) == 1

    def test_invalid_file_is_not_changed(self, folder: Path) -> None:
        (folder / "callers.toml").write_bytes(b"\xff")
        assert "not UTF-8" in stderr_of(zoomgate("callers", "add", "a", "--role", "admin"))
        (folder / "callers.toml").write_text("callers = []\n")
        assert "callers.toml" in stderr_of(zoomgate("callers", "add", "a", "--role", "admin"))
        assert "cannot be written" in stderr_of(
            zoomgate("callers", "add", "a", "--role", "admin", "--file", "no/such/folder.toml")
        )

    def test_unknown_role_is_a_usage_error(self) -> None:
        assert "root" in stderr_of(zoomgate("callers", "add", "a", "--role", "root"), 2)


class TestKeysNew:
    """Tests for `zoomgate keys new`."""

    def test_only_the_key_id_is_printed(self, folder: Path) -> None:
        """The key ring is written to the file with mode 0600."""
        key_id = stdout_of(zoomgate("keys", "new", "safe/keys.json")).strip()
        file = folder / "safe" / "keys.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert key_file.load(file).primary_id == key_id

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({}, ".zoomgate/keys.json"),
            ({"ZOOMGATE_DATA_DIR": "data"}, "data/keys.json"),
            ({"ZOOMGATE_DATA_DIR": "data", "ZOOMGATE_KEYS": "ring"}, "ring"),
        ],
    )
    def test_default_path_comes_from_the_settings(
        self, folder: Path, environ: dict[str, str], expected: str
    ) -> None:
        stdout_of(zoomgate("keys", "new", environ=environ))
        assert (folder / expected).is_file()

    def test_existing_key_ring_is_never_overwritten(self, folder: Path) -> None:
        stdout_of(zoomgate("keys", "new", "keys.json"))
        before = (folder / "keys.json").read_bytes()
        assert "never overwritten" in stderr_of(zoomgate("keys", "new", "keys.json"))
        assert (folder / "keys.json").read_bytes() == before


class TestDoctor:
    """Tests for `zoomgate doctor`."""

    def test_empty_directory_passes_and_stays_empty(self, folder: Path) -> None:
        text = stdout_of(zoomgate("doctor"))
        assert "FAIL" not in text
        assert all(line[4:6] == line[20:22] == "  " for line in text.splitlines())
        assert list(folder.iterdir()) == []

    def test_all_settings_problems_are_listed(self) -> None:
        result = zoomgate("doctor", environ={"ZOOMGATE_LISTEN": "0.0.0.0:1", "ZOOMGATE_LISTN": "x"})
        assert result.exit_code == 1
        assert [line.split()[0] for line in result.stdout.splitlines()] == ["FAIL", "FAIL"]

    def test_files_that_prevent_a_start_are_failures(self, folder: Path) -> None:
        data = folder / "data"
        data.mkdir(mode=0o755)
        (data / "zoomgate.db").write_text("no database" * 100)
        (data / "keys.json").write_text("{}")
        (data / "keys.json").chmod(0o644)
        (data / "audit.jsonl").mkdir()
        (data / "journal").touch()
        (folder / "callers.toml").write_text("[[callers]]\nname = 1\n")
        result = zoomgate(
            "doctor", "--json", "--data-dir", "data", environ={"ZOOMGATE_CALLERS": "callers.toml"}
        )
        findings = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
        assert result.exit_code == 1
        assert {name for name, row in findings.items() if row["result"] == "failure"} == {
            "store",
            "audit trail",
            "key ring",
            "journal",
            "callers",
        }
        assert findings["data directory"]["result"] == "warning"
        assert "chmod 600" in findings["key ring"]["text"]
        assert "callers.toml:2" in findings["callers"]["text"]

    @pytest.mark.parametrize(
        ("failing", "text"),
        [("data directory", "is not a directory"), ("journal", "so the service does not start")],
    )
    def test_missing_store_that_no_start_creates_is_a_failure(
        self, folder: Path, failing: str, text: str
    ) -> None:
        """The data directory is a file, or the journal belongs to a store."""
        if failing == "journal":
            (folder / "data/journal").mkdir(parents=True)
            (folder / "data/journal/app.store").write_text("previous-store\napp")
        else:
            (folder / "data").touch()
        result = zoomgate("doctor", "--json", "--data-dir", "data")
        findings = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
        assert text in findings[failing]["text"]
        assert {findings[name]["result"] for name in (failing, "store", "key ring")} == {"failure"}
        assert "the first start creates it" not in result.stdout

    @pytest.mark.parametrize("missing", ["elsewhere/audit.jsonl", "callers.toml/audit.jsonl"])
    def test_audit_file_in_a_missing_folder_is_a_failure(self, folder: Path, missing: str) -> None:
        """The service creates the data directory, but no other directory."""
        (folder / "callers.toml").touch()
        result = zoomgate("doctor", environ={"ZOOMGATE_AUDIT": missing})
        assert result.exit_code == 1
        assert f"{missing} cannot be created; create its directory" in result.stdout

    async def test_all_checks_pass_with_a_running_service(self, zoomgate: Harness, folder: Path) -> None:
        """The data directory does not change. A caller that has two keys during a rotation is counted once."""
        stdout_of(await command("callers", "add", "ops", "--role", "admin"))
        stdout_of(await command("callers", "rotate", "ops"))
        before = sorted(path.name for path in zoomgate.data_dir.iterdir())
        result = await command(
            "doctor",
            environ={
                "ZOOMGATE_DATA_DIR": str(zoomgate.data_dir),
                "ZOOMGATE_CLIENT_ID": "app",
                "ZOOMGATE_CLIENT_SECRET": "hush",
                "ZOOMGATE_CALLERS": "callers.toml",
                "ZOOMGATE_REDIRECT_URI": "https://zoom.example.com/oauth/callback",
                "ZOOMGATE_ZOOM_OAUTH_URL": zoomgate.simulator.oauth_url,
                "ZOOMGATE_PUBLIC_URL": "https://zoom.example.com",
                "ZOOMGATE_WEBHOOK_SECRET": "hush newer",
            },
        )
        events = "2 secrets; endpoint for Zoom's events: https://zoom.example.com/webhooks/zoom"
        assert events in stdout_of(result)
        assert "1 caller\n" in result.stdout
        assert {line.split()[0] for line in stdout_of(result).splitlines()} == {"ok"}
        assert sorted(path.name for path in zoomgate.data_dir.iterdir()) == before
        assert "hush" not in result.output

    def test_scopes_of_each_rpc_are_compared_with_the_required_scopes(self) -> None:
        """A misspelled scope would be missing for every user."""
        rows = [line.partition("scopes  ")[2].strip() for line in zoomgate("doctor").stdout.splitlines()]
        assert "every connection needs user:read:user, or the classic scope user:read" in rows
        needed = {row.rpartition(" ")[2]: row for row in rows if row.startswith("for RPCs, the app needs ")}
        assert needed.keys() == {"meeting:read", "meeting:write"}
        assert " meeting:write:meeting (CreateMeeting), " in needed["meeting:write"]
        assert not any("does not cover" in row for row in rows)
        environ = {"ZOOMGATE_REQUIRED_SCOPES": "meeting:read:meting, meeting:read, phone:read"}
        text = zoomgate("doctor", environ=environ).stdout
        (uncovered,) = (line for line in text.splitlines() if "REQUIRED_SCOPES does not cover" in line)
        assert "CreateMeeting" in uncovered
        assert "GetMeeting" not in uncovered
        hints = [line for line in text.splitlines() if "did you mean" in line]
        assert hints == [
            "warn  scopes          ZOOMGATE_REQUIRED_SCOPES contains meeting:read:meting; did you mean meeting:read:meeting?"
        ]

    def test_enabled_exports_are_listed(self) -> None:
        enabled = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
        ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        text = zoomgate("doctor", environ=enabled | ratio).stdout
        assert "exports traces (5 % of the traces without a caller's decision) and metrics\n" in text
        ratio = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.001"}
        text = zoomgate("doctor", environ=enabled | ratio).stdout
        assert "exports traces (0.1 % of the traces) and metrics\n" in text
        assert "OpenTelemetry" not in zoomgate("doctor").stdout

    def test_address_of_a_collector_without_a_scheme_is_a_problem(self) -> None:
        result = zoomgate("doctor", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})
        assert result.exit_code == 1
        assert "OTEL_EXPORTER_OTLP_ENDPOINT must be an http or https URL" in result.output

    def test_secrets_that_all_users_can_read_cause_warnings(self, folder: Path) -> None:
        environ = {"ZOOMGATE_CLIENT_ID": "abc", "ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:1/oauth"}
        secrets = folder / "secrets"
        secrets.mkdir()
        files = [folder / "secret", secrets / VELO_SECRET, secrets / WEBHOOK_SECRET]
        for path in files:
            path.write_text("client-secret-value")
        sources = {"ZOOMGATE_CLIENT_SECRET_FILE": "secret"}, {"ZOOMGATE_SECRETS_DIR": "secrets"}
        for mode, names in (
            (0o644, ["secret", *(f"secrets/{path.name}" for path in files[1:])]),
            (0o600, []),
        ):
            for path in files:
                path.chmod(mode)
            text = "".join(zoomgate("doctor", environ=environ | source).stdout for source in sources)
            lines = [line for line in text.splitlines() if line.startswith("warn  secrets ")]
            assert [line.split()[2] for line in lines] == names
            assert all("run `chmod 600` on it" in line for line in lines)

    def test_missing_webhook_secret_causes_a_warning_if_an_app_is_set(self) -> None:
        for environ, mark in (
            ({}, "ok"),
            (APP | {"ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:1/oauth"}, "warn"),
        ):
            text = zoomgate("doctor", environ=environ).stdout
            (line,) = [line for line in text.splitlines() if line.split()[1] == "webhooks"]
            assert line.startswith(mark)
            assert "set ZOOMGATE_WEBHOOK_SECRET" in line

    def test_address_of_the_collector_is_shown_without_credentials(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as collector:
            address = f"127.0.0.1:{collector.getsockname()[1]}"
            environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:hush@{address}/otlp?key=hush"}
            text = zoomgate("doctor", environ=environ).stdout
        assert f"collector       http://{address}/otlp is reachable\n" in text
        assert "hush" not in text

    def test_unreachable_collector_causes_a_warning(self) -> None:
        signals = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:2/v1/metrics",
        }
        result = zoomgate("doctor", environ=signals)
        warnings = [line for line in result.stdout.splitlines() if line.split()[1] == "collector"]
        assert [line.startswith("warn") for line in warnings] == [True, True]
        assert "http://127.0.0.1:2/v1/metrics cannot be reached" in warnings[1]

    async def test_doctor_creates_no_files_for_a_stopped_service(self, folder: Path) -> None:
        async with running(folder / "data"):
            pass
        before = sorted(path.name for path in (folder / "data").iterdir())
        text = stdout_of(await command("doctor", "--data-dir", "data"))
        assert "data/zoomgate.db, 0 connection records" in text
        assert sorted(path.name for path in (folder / "data").iterdir()) == before

    async def test_damage_and_changes_of_an_sqlite_file_are_reported(self, folder: Path) -> None:
        """A missing index and a journal mode other than WAL are warnings, with their remedies; a damaged page is a failure."""
        async with running(folder / "data") as zoomgate:
            await zoomgate.connect()
        path = folder / "data" / "zoomgate.db"

        async def store_finding() -> tuple[str, str]:
            result = await command("doctor", "--json", "--data-dir", "data")
            row = next(row for row in map(json.loads, result.stdout.splitlines()) if row["check"] == "store")
            return row["result"], row["text"]

        assert await store_finding() == ("ok", "data/zoomgate.db, 1 connection record")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP INDEX record_state_due")
            connection.execute("PRAGMA journal_mode = DELETE")
        result, text = await store_finding()
        assert result == "warning"
        assert "is not in WAL mode; restart the service" in text
        remedy = re.search(r"sqlite3 data/zoomgate.db '(CREATE INDEX record_state_due .*;)'", text)
        assert remedy is not None
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(remedy[1])
        async with running(folder / "data"):
            pass
        assert (await store_finding())[0] == "ok"
        content = bytearray(path.read_bytes())
        content[-4096:] = b"\xa5" * 4096
        path.write_bytes(content)
        assert await store_finding() == (
            "failure",
            "The store data/zoomgate.db is corrupt; restore it from a backup",
        )

    async def test_changes_of_a_mongodb_database_are_reported(self, folder: Path, mongodb_uri: str) -> None:
        """A missing or different index is a warning. The check changes nothing, not even in an empty database."""
        key_file.create(folder / "ring")
        environ = {"ZOOMGATE_DATA_DIR": "data", "ZOOMGATE_KEYS": "ring", "ZOOMGATE_STORE": mongodb_uri}

        async def store_finding() -> str:
            result = await command("doctor", "--json", environ=environ)
            row = next(row for row in map(json.loads, result.stdout.splitlines()) if row["check"] == "store")
            return str(row["text"])

        with MongoClient(mongodb_uri) as client:
            database = client.get_default_database()
            assert "no index" not in await store_finding()
            assert database.list_collection_names() == []
            async with running(folder / "data", environ=environ):
                pass
            assert "no index" not in await store_finding()
            records = database["zoomgate_records"]
            records.drop_index("state_due")
            records.drop_index("email")
            records.create_index("email_key", name="email")
            text = await store_finding()
        assert "no index state_due of zoomgate_records, or a different one" in text
        assert re.search("no index email .*; drop it, and restart the service", text)
        assert text.count("no index") == 2

    @pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
    async def test_key_ring_must_match_the_store(
        self, folder: Path, kind: str, request: pytest.FixtureRequest
    ) -> None:
        """Only records of the configured app are checked; a missing key, or a different key with the same ID, is a failure."""
        key_file.create(folder / "ring")
        environ = {"ZOOMGATE_DATA_DIR": "data", "ZOOMGATE_KEYS": "ring"}
        if kind == "mongodb":
            environ["ZOOMGATE_STORE"] = request.getfixturevalue("mongodb_uri")

        async def ring_finding() -> tuple[str, str]:
            result = await command("doctor", "--json", environ=environ)
            row = next(
                row for row in map(json.loads, result.stdout.splitlines()) if row["check"] == "key ring"
            )
            assert result.exit_code == (row["result"] == "failure")
            return row["result"], row["text"]

        if kind == "mongodb":
            assert (await ring_finding())[1].endswith("the store has no records of this app yet")
        async with running(folder / "data", environ=environ) as zoomgate:
            await zoomgate.connect()
            assert (await ring_finding())[1].endswith("matches the store")
        right = (folder / "ring").read_bytes()
        (folder / "ring").unlink()
        key_file.create(folder / "ring")
        result, text = await ring_finding()
        assert result == "failure"
        assert "is not in the key ring; restore the key file that contains it (ZOOMGATE_KEYS is ring)" in text
        ids = [json.loads(content)["keys"][0]["id"] for content in (right, (folder / "ring").read_bytes())]
        (folder / "ring").write_bytes(
            (folder / "ring").read_bytes().replace(ids[1].encode(), ids[0].encode())
        )
        result, text = await ring_finding()
        assert result == "failure"
        assert "restore the key file with which the store was created" in text
        environ |= APP | {"ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:1/oauth"}
        result = await command("doctor", "--json", environ=environ)
        assert "the store has no records of this app yet" in result.stdout

    def test_inaccessible_paths_are_failures(self) -> None:
        """A path to which access is denied is not reported as missing."""
        name = "x" * 300
        result = zoomgate("doctor", "--json", "--data-dir", name)
        results = {row["check"]: row["result"] for row in map(json.loads, result.stdout.splitlines())}
        assert result.exit_code == 1
        assert (results["data directory"], results["store"], results["key ring"]) == ("failure",) * 3
        assert "--data-dir: cannot create or use" in stderr_of(
            zoomgate("run", "--data-dir", name, "--simulator-listen", "127.0.0.1:0"), 1
        )

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/oauth", "https://a..b/oauth"])
    def test_unreachable_zoom_is_a_failure(self, url: str) -> None:
        result = zoomgate("doctor", environ=APP | {"ZOOMGATE_ZOOM_OAUTH_URL": url})
        assert result.exit_code == 1
        assert f"{url} cannot be reached" in result.stdout

    async def test_invalid_responses_are_reported(self) -> None:
        """An endpoint whose response is not HTTP is reported as unreachable, and a date without a time zone as invalid."""
        dateless = http_response("200 OK", b"", "Date: Tue, 24 Nov 2026 21:09:00 -0000")
        async with raw_upstream() as upstream:
            upstream.responses = [b"SSH-2.0-noise\r\n\r\n", dateless]
            upstream.close_after_response = True
            url = f"http://127.0.0.1:{upstream.port}/oauth"
            for code, text in ((1, "cannot be reached"), (0, "contains no valid date")):
                result = await command("doctor", environ=APP | {"ZOOMGATE_ZOOM_OAUTH_URL": url})
                assert result.exit_code == code
                assert text in result.stdout


async def client(service: Harness, caller: str, *arguments: str, stdin: str = "") -> Result:
    """Run a `connections` command against the service of the test."""
    return await command(
        "connections",
        *arguments,
        "--server",
        service.grpc_address,
        environ={"ZOOMGATE_KEY": caller_key(caller)},
        stdin=stdin,
    )


class TestConnections:
    """Tests for `zoomgate connections`."""

    async def test_connections_are_listed(self, zoomgate: Harness) -> None:
        """The output is a table or one JSON document per line, and can be filtered by state."""
        assert stdout_of(await client(zoomgate, "admin", "list", "--json")) == ""
        await zoomgate.connect(MONICA)
        await zoomgate.connect(OMAR)
        table = stdout_of(await client(zoomgate, "admin", "list"))
        assert [line.split()[:2] for line in table.splitlines()[1:]] == [[MONICA, "active"], [OMAR, "active"]]
        rows = stdout_of(await client(zoomgate, "admin", "list", "--json")).splitlines()
        assert [json.loads(row)["userEmail"] for row in rows] == [MONICA, OMAR]
        assert stdout_of(await client(zoomgate, "admin", "list", "--json", "--state", "disconnected")) == ""

    async def test_connection_is_shown_and_deleted(self, zoomgate: Harness) -> None:
        """The output contains no token; deletion requires a confirmation or --yes."""
        await zoomgate.connect(MONICA)
        shown = stdout_of(await client(zoomgate, "admin", "show", MONICA))
        assert MONICA in shown
        assert "sim-" not in shown
        declined = await client(zoomgate, "admin", "delete", MONICA, stdin="n\n")
        assert declined.exit_code == 1
        assert (
            json.loads(stdout_of(await client(zoomgate, "admin", "show", MONICA, "--json")))["state"]
            == "STATE_ACTIVE"
        )
        deleted = stdout_of(await client(zoomgate, "admin", "delete", MONICA, "--yes", "--json"))
        assert json.loads(deleted)["state"] == "STATE_DISCONNECTED"

    async def test_failures_have_exit_codes_and_next_steps(self, zoomgate: Harness) -> None:
        """Exit codes are 2 for invalid usage, 3 for not found, 4 for not allowed or unauthenticated, 5 for unreachable."""
        missing = stderr_of(await client(zoomgate, "admin", "show", MONICA), 3)
        assert "NOT_FOUND" in missing
        assert f"`zoomgate connect {MONICA}`" in missing
        forbidden = stderr_of(await client(zoomgate, "omar", "show", MONICA), 4)
        assert "PERMISSION_DENIED" in forbidden
        assert "callers file" in forbidden
        assert "--key-file" in stderr_of(await client(zoomgate, "unknown", "list"), 4)
        assert "--key-file" in stderr_of(
            await command("connections", "list", "--server", zoomgate.grpc_address), 4
        )
        unreachable = stderr_of(await command("connections", "list", "--server", "127.0.0.1:1"), 5)
        assert unreachable.startswith("zoomgate: the service at 127.0.0.1:1 cannot be reached; start it with")
        assert "exactly one @" in stderr_of(await client(zoomgate, "admin", "show", "monica"), 2)

    async def test_sources_of_the_key_have_precedence(self, zoomgate: Harness, folder: Path) -> None:
        """The key is read from --key-file; if it is not set, from ZOOMGATE_KEY; otherwise, from caller.key in the data directory."""
        (folder / "key").write_text(caller_key("admin") + "\n")
        assert (await client(zoomgate, "unknown", "list", "--key-file", "key")).exit_code == 0
        (folder / ".zoomgate").mkdir()
        (folder / ".zoomgate" / "caller.key").write_text(caller_key("admin"))
        arguments = ("connections", "list", "--server", zoomgate.grpc_address)
        assert (await command(*arguments)).exit_code == 0
        assert (await client(zoomgate, "unknown", "list")).exit_code == 4

    async def test_key_that_all_users_can_read_causes_a_warning(
        self, zoomgate: Harness, folder: Path
    ) -> None:
        (folder / "key").write_text(caller_key("admin"))
        for mode, is_warned in ((0o644, True), (0o600, False)):
            (folder / "key").chmod(mode)
            result = await client(zoomgate, "unknown", "list", "--key-file", "key")
            assert result.exit_code == 0
            assert ("key is accessible to all users; run `chmod 600` on it" in result.stderr) == is_warned

    def test_invalid_server_address_is_rejected(self) -> None:
        for server in ("localhost", "0.0.0.0:50051", "[::]:50051", ":50051", "http://localhost:1"):
            assert "use HOST:PORT" in stderr_of(zoomgate("connections", "list", "--server", server), 2)

    @pytest.mark.parametrize("key", ["two words", "ключ", "a\nb"])
    def test_invalid_key_is_rejected_without_repeating_it(self, folder: Path, key: str) -> None:
        arguments = ("connections", "list", "--server", "127.0.0.1:1")
        (folder / "key").write_text(key)
        for result in (
            zoomgate(*arguments, environ={"ZOOMGATE_KEY": key}),
            zoomgate(*arguments, "--key-file", "key"),
        ):
            text = stderr_of(result, 2)
            assert "does not contain a key" in text
            assert key not in text
        assert "cannot be read" in stderr_of(zoomgate(*arguments, "--key-file", "none"), 2)


def test_mistyped_command_gets_a_suggestion() -> None:
    assert "Did you mean 'connect'?" in stderr_of(zoomgate("conect", MONICA), 2)
    assert "Did you mean" not in stderr_of(zoomgate("qqq"), 2)


def test_serve_lists_all_missing_settings(folder: Path) -> None:
    """Nothing is written to disk."""
    text = stderr_of(zoomgate("serve"))
    assert "ZOOMGATE_CLIENT_ID is required" in text
    assert "ZOOMGATE_CALLERS is required" in text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("listen", ["0.0.0.0:8090", "192.0.2.1:8090", "8090", "127.0.0.1:99999"])
def test_simulator_rejects_addresses_that_other_machines_can_reach(folder: Path, listen: str) -> None:
    for arguments in (
        ("simulator", "--listen", listen),
        ("simulator", "stats", "--at", listen),
        ("run", "--simulator-listen", listen),
    ):
        error = stderr_of(zoomgate(*arguments), 2)
        assert error.startswith(f"zoomgate: {arguments[-2]} is '{listen}'; the simulator listens on loopback")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--clock", "noon"),
        ("--seed", "-1"),
        ("--seed-file", "missing.toml"),
        ("fault", "token"),
        ("stats", "--at", "127.0.0.1:1"),
    ],
)
def test_errors_of_the_simulator_look_like_those_of_other_commands(arguments: tuple[str, ...]) -> None:
    result = zoomgate("simulator", *arguments)
    assert all(line.startswith("zoomgate: ") for line in stderr_of(result, result.exit_code).splitlines())


@pytest.mark.parametrize(
    "url", ["nowhere", "ftp://127.0.0.1/x", "http://127.0.0.1:1", "http://u:p@127.0.0.1/x"]
)
def test_simulator_rejects_invalid_webhook_urls(folder: Path, url: str) -> None:
    assert "use http://127.0.0.1:PORT/PATH" in stderr_of(zoomgate("simulator", "--webhook-url", url), 2)


def test_added_caller_survives_a_round_trip_through_toml(folder: Path) -> None:
    stdout_of(zoomgate("callers", "add", "a.b-c_d", "--role", "service", "--users", "o'hara@example.com"))
    (row,) = tomllib.loads((folder / "callers.toml").read_text())["callers"]
    assert (row["name"], row["users"]) == ("a.b-c_d", ["o'hara@example.com"])


class TestKeysList:
    """Tests for `zoomgate keys list`."""

    def test_keys_are_listed_by_id(self, folder: Path) -> None:
        """The IDs and the use of the keys are printed, but never the keys."""
        key_id = stdout_of(zoomgate("keys", "new", "ring.json")).strip()
        secrets = re.findall(r"[A-Za-z0-9+/_=-]{40,}", (folder / "ring.json").read_text())
        assert secrets
        table = stdout_of(zoomgate("keys", "list", "ring.json"))
        assert table.split() == ["KEY", "USE", key_id, "primary"]
        document = stdout_of(zoomgate("keys", "list", "ring.json", "--json"))
        assert json.loads(document) == {"keyId": key_id, "seals": True}
        assert not any(secret in table + document for secret in secrets)
        stderr_of(zoomgate("keys", "list", "none.json"))
