"""Tests for `zoomgate audit`, and for the audit lines of commands that make changes."""

import gzip
import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from support.command_line import command, stderr_of, stdout_of, zoomgate
from support.harness import MONICA, OMAR, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.cli import audit_log
from zoomgate_server.encryption import key_file

OLD, NEW = "2020-01-07T09:00:00.123Z", "2020-01-08T09:00:00.123Z"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty directory, with `data` as the configured data directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path


def line(time: str = OLD, action: str = "token.returned", user: str = MONICA, **fields: Any) -> str:
    return json.dumps(
        {"time": time, "action": action, "outcome": "ok", "principal": "calendar", "user": user} | fields,
        separators=(",", ":"),
    )


def write(*texts: str, name: str = "audit.jsonl") -> Path:
    path = Path("data") / name
    path.parent.mkdir(exist_ok=True)
    text = "".join(f"{text}\n" for text in texts).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def show(*arguments: str) -> list[dict[str, Any]]:
    return [
        json.loads(text) for text in stdout_of(zoomgate("audit", "show", "--json", *arguments)).splitlines()
    ]


class TestShow:
    """Tests for `zoomgate audit show`."""

    def test_filters(self) -> None:
        """Lines can be filtered by user, caller, action or group of actions, time and fingerprint, also in combination."""
        write(
            line(OLD, access_fingerprint="aa" * 8),
            line(NEW, user=OMAR, refresh_fingerprint="bb" * 8),
            line(NEW, action="keys.added", user="", principal="root"),
        )
        for arguments, count in (
            ([], 3),
            (["--user", MONICA], 1),
            (["--user", MONICA.upper()], 1),
            (["--principal", "root"], 1),
            (["--action", "token.returned"], 2),
            (["--action", "keys"], 1),
            (["--since", "2020-01-08T09:00:00+00:00"], 2),
            (["--until", "2020-01-08T09:00:00Z"], 1),
            (["--since", "2020-01-07T10:00:00.123+01:00", "--until", "2020-01-07T09:00:01Z"], 1),
            (["--fingerprint", "AA" * 8], 1),
            (["--fingerprint", "bb" * 8, "--user", OMAR], 1),
        ):
            assert len(show(*arguments)) == count, arguments

    def test_no_match_has_its_own_exit_code(self) -> None:
        """The exit code is 3 if no line matches, or if the trail does not exist."""
        assert "data/audit.jsonl does not exist" in stderr_of(zoomgate("audit", "show"), 3)
        write(line())
        assert "no matching lines" in stderr_of(zoomgate("audit", "show", "--user", OMAR), 3)

    def test_default_output_is_a_table(self) -> None:
        """Terminal control characters are escaped."""
        write(line(details={"file": "x\x1b[31m"}, generation=7, request_id="r1"), line(principal=""))
        output = stdout_of(zoomgate("audit", "show"))
        assert output.splitlines()[0].split() == ["TIME", "ACTION", "OUTCOME", "BY", "FOR", "USER", "MORE"]
        assert "generation=7 file=x\\x1b[31m request=r1" in output
        assert "(unknown)" in output

    def test_rotated_files_are_read_oldest_first(self) -> None:
        """Rotated files, compressed or not, are read before the current file, in the order of their modification times."""
        for age, name in ((3, "audit.jsonl.2.gz"), (2, "audit.jsonl-20300107"), (1, "audit.jsonl.1")):
            path = write(line("2090-01-01T00:00:00Z", request_id=name), name=name)
            os.utime(path, (time.time() - age * 86_400,) * 2)
        write(line("2090-01-01T00:00:00Z", request_id="now"))
        write(line(request_id="other"), name="other.jsonl")
        names = ["audit.jsonl.2.gz", "audit.jsonl-20300107", "audit.jsonl.1", "now"]
        assert [row["request_id"] for row in show()] == names
        assert [row["request_id"] for row in show("--since", "36h")] == names[2:]
        assert [row["request_id"] for row in show("data/other.jsonl", "data/audit.jsonl.1")] == [
            "other",
            "audit.jsonl.1",
        ]

    @pytest.mark.parametrize(
        "corruption",
        [
            '{"time":"2020-01-07T09:0',
            "not a line",
            "[]",
            "null",
            "\x00" * 100,
            '{"time":7,"action":"x"}',
            '{"time":"2020-01-07T09:00:00Z"}',
            '{"time":"2020-01-07T09:00:00Z","action":7}',
            "[" * 100_000,
            "x" * 200_000,
            '{"time":"2020-01-07T09:00:00","action":"x"}',
            '{"time":"0001-01-01T00:00:00+14:00","action":"x"}',
            '{"time":"9999-12-31T23:59:59-12:00","action":"x"}',
        ],
        ids=lambda text: text[:12].strip("\x00") or "zeros",
    )
    def test_corrupt_line_is_reported_and_skipped(self, corruption: str) -> None:
        """The other lines are shown, and standard error contains the file and line number."""
        write(line(request_id="1"), corruption, line(request_id="3"))
        result = zoomgate("audit", "show", "--json")
        assert [json.loads(text)["request_id"] for text in stdout_of(result).splitlines()] == ["1", "3"]
        assert "data/audit.jsonl:2 is corrupt and was skipped" in result.stderr
        assert len(stdout_of(zoomgate("audit", "show")).splitlines()) == 3

    @pytest.mark.parametrize("corruption", ["truncated", "overwritten", "not gzip"])
    def test_unreadable_file_does_not_stop_the_others(self, corruption: str) -> None:
        """All readable lines are shown. The command fails with an error that contains the name of the file, instead of "not found"."""
        noise = random.Random(0)  # noqa: S311 - other corrupt bytes may have the form of compressed lines
        lines = [
            line(request_id=str(number), details={"noise": noise.randbytes(99).hex()})
            for number in range(900)
        ]
        path = write(*lines, name="audit.jsonl.1.gz")
        content = path.read_bytes()
        corrupt = {
            "truncated": content[:-200],
            "overwritten": content[:-200] + b"\xff" * 200,
            "not gzip": b"x" * 200,
        }[corruption]
        path.write_bytes(corrupt)
        os.utime(path, (1.0, 1.0))
        write(line(request_id="later"))
        result = zoomgate("audit", "show", "--json")
        request_ids = [json.loads(text)["request_id"] for text in result.stdout.splitlines()]
        assert request_ids[-1] == "later"
        assert request_ids[:-1] == [str(number) for number in range(len(request_ids) - 1)]
        assert (len(request_ids) > 1) == (corruption != "not gzip")
        assert result.exit_code == 1
        assert "data/audit.jsonl.1.gz cannot be read" in result.stderr
        assert "Traceback" not in result.stderr
        no_match = zoomgate("audit", "show", "--user", "unknown@example.com")
        assert no_match.exit_code == 1

    def test_unsupported_compression_is_reported(self) -> None:
        """Other files are read, and the error explains what to do."""
        write(line(request_id="old"), name="audit.jsonl.2.xz")
        write(line(request_id="new"))
        result = zoomgate("audit", "show", "--json")
        assert [json.loads(text)["request_id"] for text in result.stdout.splitlines()] == ["new"]
        assert "audit.jsonl.2.xz has an unsupported compression format; decompress it" in result.stderr
        assert result.exit_code == 1

    def test_empty_lines_count_for_line_numbers(self) -> None:
        """If the disk was full, an empty line may follow an incomplete line."""
        write(line(), "", "corrupt", line())
        assert "data/audit.jsonl:3 is corrupt" in zoomgate("audit", "show").stderr

    def test_file_name_is_not_a_glob_pattern(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rotated files of a file with brackets in its name are found."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "data/trail[1]")
        write(line(request_id="old"), name="trail[1].1")
        write(line(request_id="new"), name="trail[1]")
        assert [row["request_id"] for row in show()] == ["old", "new"]

    def test_complete_line_after_an_incomplete_one_is_shown(self) -> None:
        """If no newline separates an incomplete line from the next line, the next line is shown and the corruption is reported."""
        write(line(request_id="1"), line(request_id="incomplete")[:50] + line(request_id="2"))
        result = zoomgate("audit", "show", "--json")
        assert [json.loads(text)["request_id"] for text in stdout_of(result).splitlines()] == ["1", "2"]
        assert "data/audit.jsonl:2 is corrupt" in result.stderr

    def test_audit_lines_are_found_in_a_log(self) -> None:
        """Log lines other than audit lines are ignored and not reported as corrupt."""
        audit_line = {"source": "zoomgate.audit", "event": "audit", "level": "info"} | json.loads(line())
        others = [{"source": "zoomgate.access", "event": "rpc", "time": OLD}, {"source": "x", "event": "y"}]
        write(
            *(json.dumps(each, separators=(",", ":")) for each in [others[0], audit_line, others[1]]),
            '{"source":"cut',
        )
        result = zoomgate("audit", "show", "--json", "data/audit.jsonl")
        assert [json.loads(text) for text in stdout_of(result).splitlines()] == [audit_line]
        assert result.stderr == "zoomgate: data/audit.jsonl:4 is corrupt and was skipped\n"

    def test_trail_in_the_log_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ZOOMGATE_AUDIT=log, the error explains that there is no file to read."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "log")
        assert "the trail is written to the log" in stderr_of(zoomgate("audit", "show"))

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--since", "yesterday"],
            ["--since", "2020-01-07T09:00:00"],
            ["--since", "2020-01-07"],
            ["--action", "tokens"],
            ["--user", "\u212aate@example.com"],
            ["--user", "monica"],
            ["--fingerprint", "9f2c4e6a"],
            ["--fingerprint", "a leaked token"],
            ["missing.jsonl"],
        ],
    )
    def test_invalid_arguments_are_rejected(self, arguments: list[str]) -> None:
        """Impossible values and missing files are usage errors, because "not found" would be misleading."""
        write(line())
        stderr_of(zoomgate("audit", "show", *arguments), 2)

    def test_token_passed_as_fingerprint_is_not_printed(self) -> None:
        """The error explains what to pass and does not repeat the token, since error messages could end up in logs."""
        output = stderr_of(zoomgate("audit", "show", "--fingerprint", "eyJzdiI6IjAwMDAwMiJ9"), 2)
        assert "zoomgate audit fingerprint" in output
        assert "eyJ" not in output


class TestFingerprint:
    """Tests for `zoomgate audit fingerprint`."""

    async def test_fingerprint_finds_the_lines_of_a_token(self) -> None:
        """The fingerprint is the same after a key rotation. The fingerprint of an unknown token matches no line."""
        async with running(Path("data")) as service:
            await service.connect()
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
        stdout_of(await command("keys", "rotate", "--now"))
        for secret in (token.access_token, token.refresh_token):
            fingerprint = stdout_of(await command("audit", "fingerprint", stdin=f"{secret}\n")).strip()
            result = await command("audit", "show", "--json", "--fingerprint", fingerprint)
            actions = [json.loads(text)["action"] for text in stdout_of(result).splitlines()]
            assert actions == ["connection.stored", "token.returned"]
        other = stdout_of(await command("audit", "fingerprint", stdin="another-token")).strip()
        stderr_of(await command("audit", "show", "--fingerprint", other), 3)

    @pytest.mark.parametrize(
        "stdin",
        ["", " \n", "two tokens", "tok\x00en", b"\xfftoken", "token".encode("utf-16")],
        ids=["empty", "blank", "two tokens", "control characters", "not UTF-8", "UTF-16"],
    )
    def test_input_must_be_one_token(self, stdin: str | bytes) -> None:
        """Other input is rejected, because a search for its fingerprint would return a misleading "not found"."""
        assert "`zoomgate audit fingerprint < file`" in stderr_of(
            zoomgate("audit", "fingerprint", stdin=stdin)
        )

    def test_missing_store_is_reported(self) -> None:
        """Without a key ring or a store the command fails, and does not create a store."""
        stderr_of(zoomgate("audit", "fingerprint", stdin="token"))
        stdout_of(zoomgate("keys", "new"))
        assert "there is no store" in stderr_of(zoomgate("audit", "fingerprint", stdin="token"))
        assert not Path("data/zoomgate.db").exists()


class TestCommands:
    """Tests for commands that change keys, callers or the store."""

    async def test_commands_are_audited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each command writes a line with the system user and the user that called sudo, as shown in docs/audit.md, without secrets."""
        monkeypatch.setenv("SUDO_USER", "alice")
        Path("data").mkdir()
        stdout_of(await command("keys", "new"))
        first = key_file.load(Path("data/keys.json")).primary_id
        async with running(Path("data")) as service:
            await service.connect()
        stdout_of(await command("keys", "rotate", "--now"))
        os.utime("data/keys.json", (time.time() - 60,) * 2)
        stdout_of(await command("keys", "reencrypt"))
        stdout_of(await command("keys", "retire", first, "--yes"))
        key = stdout_of(
            await command("callers", "add", "calendar", "--role", "service", "--users", "*")
        ).strip()
        old_id = hashlib.sha256(key.encode()).hexdigest()[:8]
        stdout_of(await command("callers", "rotate", "calendar"))
        stdout_of(await command("callers", "remove-key", "calendar", old_id))
        stdout_of(await command("callers", "remove", "calendar", "--yes"))
        stdout_of(await command("store", "backup", "copy.db"))
        for path in Path("data").glob("zoomgate.db*"):
            path.unlink()
        stdout_of(await command("store", "restore", "copy.db"))
        lines = [row for row in show() if row["role"] == "operator"]
        assert [row["action"] for row in lines] == [
            "keys.created",
            "keys.added",
            "keys.promoted",
            "keys.reencrypted",
            "keys.reencrypted",
            "keys.retired",
            "callers.added",
            "callers.key_added",
            "callers.key_removed",
            "callers.removed",
            "store.backed_up",
            "store.restored",
        ]
        assert {(row["on_behalf_of"], row["outcome"]) for row in lines} == {("alice", "ok")}
        assert all(row["principal"] for row in lines)
        text = Path("data/audit.jsonl").read_text()
        assert key not in text
        assert "secret" not in text
        page = (Path(__file__).parents[3] / "docs/audit.md").read_text()
        examples = {row["action"]: row for row in map(json.loads, _examples(page))}
        for row in lines:
            assert list(examples[row["action"]]) == list(row)
            assert list(examples[row["action"]]["details"]) == list(row["details"])

    def test_unwritable_trail_prevents_changes(self) -> None:
        """If the trail cannot be opened, nothing is changed and no key is printed."""
        Path("data/audit.jsonl").mkdir(parents=True)
        for arguments in (["keys", "new"], ["callers", "add", "calendar", "--role", "service"]):
            assert "nothing was changed" in stderr_of(zoomgate(*arguments))
        assert not Path("data/keys.json").exists()
        assert not Path("callers.toml").exists()

    def test_full_disk_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the completed action and explains what to do. A key without an audit line is not printed."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "/dev/full")
        output = stderr_of(zoomgate("callers", "add", "calendar", "--role", "service"))
        assert "callers.added succeeded but could not be written to /dev/full" in output

    def test_no_line_is_written_without_a_data_directory(self) -> None:
        """Creating a key ring before the service has run does not create the data directory."""
        stdout_of(zoomgate("keys", "new", "elsewhere.json"))
        assert not Path("data").exists()

    async def test_restore_on_a_new_machine_is_audited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The restore creates the data directory and writes an audit line there. If the backup is missing, no directory is created."""
        async with running(Path("data")) as service:
            await service.connect()
        stdout_of(await command("store", "backup", "copy.db"))
        monkeypatch.setenv("ZOOMGATE_DATA_DIR", "new")
        monkeypatch.setenv("ZOOMGATE_KEYS", "data/keys.json")
        stderr_of(await command("store", "restore", "missing.db"))
        assert not Path("new").exists()
        stdout_of(await command("store", "restore", "copy.db"))
        assert [row["action"] for row in show()] == ["store.restored"]

    def test_trail_can_be_written_to_the_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ZOOMGATE_AUDIT=log nothing is written to the data directory."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "log")
        stdout_of(zoomgate("keys", "new"))
        assert not Path("data/audit.jsonl").exists()

    def test_system_user_without_a_name_is_recorded_by_uid(self) -> None:
        """In a container, the user ID may have no user name."""
        assert audit_log.user_name(987_654) == "uid 987654"


def _examples(page: str) -> list[str]:
    return [text for text in page.splitlines() if text.startswith('{"time"')]
