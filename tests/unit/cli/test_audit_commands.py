"""`zoomgate audit`, and the lines of commands that change something."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from support.command_line import command, done, refused, zoomgate
from support.harness import MONICA, OMAR, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.cli import audit_log
from zoomgate_server.encryption import key_file

OLD, NEW = "2020-01-07T09:00:00.123Z", "2020-01-08T09:00:00.123Z"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; the data folder in it is the one of the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path


def line(when: str = OLD, action: str = "token.returned", user: str = MONICA, **fields: Any) -> str:
    return json.dumps(
        {"time": when, "action": action, "outcome": "ok", "principal": "calendar", "user": user} | fields,
        separators=(",", ":"),
    )


def write(*texts: str, name: str = "audit.jsonl") -> Path:
    path = Path("data") / name
    path.parent.mkdir(exist_ok=True)
    text = "".join(f"{text}\n" for text in texts).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def shown(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in done(zoomgate("audit", "show", "--json", *arguments)).splitlines()]


class TestShow:
    """`zoomgate audit show`."""

    def test_lines_are_chosen(self) -> None:
        """By person, caller, action or its beginning, time and fingerprint, each alone and together."""
        write(
            line(OLD, access_fingerprint="aa" * 8),
            line(NEW, user=OMAR, refresh_fingerprint="bb" * 8),
            line(NEW, action="keys.added", user="", principal="root"),
        )
        for arguments, count in (
            ([], 3),
            (["--user", MONICA], 1),
            (["--principal", "root"], 1),
            (["--action", "token.returned"], 2),
            (["--action", "keys"], 1),
            (["--since", "2020-01-08T09:00:00+00:00"], 2),
            (["--until", "2020-01-08T09:00:00Z"], 1),
            (["--since", "2020-01-07T10:00:00.123+01:00", "--until", "2020-01-07T09:00:01Z"], 1),
            (["--fingerprint", "AA" * 8], 1),
            (["--fingerprint", "bb" * 8, "--user", OMAR], 1),
        ):
            assert len(shown(*arguments)) == count, arguments

    def test_nothing_found_is_an_answer(self) -> None:
        """Nothing of that kind exits with 3, and so does a trail that is not there."""
        assert "There is no data/audit.jsonl" in refused(zoomgate("audit", "show"), 3)
        write(line())
        assert "nothing of that kind" in refused(zoomgate("audit", "show", "--user", OMAR), 3)

    def test_lines_are_for_people_unless_told_otherwise(self) -> None:
        """The table has who, what, about whom and the rest; what a terminal would obey is escaped."""
        write(line(details={"file": "x\x1b[31m"}, generation=7, request_id="r1"), line(principal=""))
        said = done(zoomgate("audit", "show"))
        assert said.splitlines()[0].split() == ["TIME", "ACTION", "OUTCOME", "BY", "FOR", "USER", "MORE"]
        assert "generation=7 file=x\\x1b[31m request=r1" in said
        assert "(unknown)" in said

    def test_rotated_files_are_read_the_oldest_first(self) -> None:
        """What logrotate made of the file, compressed or not, comes before it, in the order of their last changes."""
        for age, name in ((3, "audit.jsonl.2.gz"), (2, "audit.jsonl-20300107"), (1, "audit.jsonl.1")):
            path = write(line("2090-01-01T00:00:00Z", request_id=name), name=name)
            os.utime(path, (time.time() - age * 86_400,) * 2)
        write(line("2090-01-01T00:00:00Z", request_id="now"))
        write(line(request_id="other"), name="other.jsonl")
        names = ["audit.jsonl.2.gz", "audit.jsonl-20300107", "audit.jsonl.1", "now"]
        assert [found["request_id"] for found in shown()] == names
        assert [found["request_id"] for found in shown("--since", "36h")] == names[2:]
        assert [found["request_id"] for found in shown("data/other.jsonl", "data/audit.jsonl.1")] == [
            "other",
            "audit.jsonl.1",
        ]

    @pytest.mark.parametrize(
        "damage",
        [
            '{"time":"2020-01-07T09:0',
            "no line",
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
    def test_a_damaged_line_is_named_and_left_out(self, damage: str) -> None:
        """The lines around it are shown, and standard error has file and number."""
        write(line(request_id="1"), damage, line(request_id="3"))
        result = zoomgate("audit", "show", "--json")
        assert [json.loads(text)["request_id"] for text in done(result).splitlines()] == ["1", "3"]
        assert "data/audit.jsonl:2 is damaged, and was left out" in result.stderr
        assert len(done(zoomgate("audit", "show")).splitlines()) == 3

    @pytest.mark.parametrize("what", ["cut", "changed", "no gzip"])
    def test_a_file_that_cannot_be_read_to_its_end_holds_up_no_other(self, what: str) -> None:
        """What it had before, and what the later ones have, is shown; the end names it, and is a failure rather than "not found"."""
        lines = [
            line(request_id=str(number), details={"noise": os.urandom(99).hex()}) for number in range(900)
        ]
        path = write(*lines, name="audit.jsonl.1.gz")
        whole = path.read_bytes()
        broken = {
            "cut": whole[:-200],
            "changed": whole[:-200] + b"\xff" * 200,
            "no gzip": b"x" * 200,
        }[what]
        path.write_bytes(broken)
        os.utime(path, (1.0, 1.0))
        write(line(request_id="later"))
        result = zoomgate("audit", "show", "--json")
        found = [json.loads(text)["request_id"] for text in result.stdout.splitlines()]
        assert found[-1] == "later"
        assert found[:-1] == [str(number) for number in range(len(found) - 1)]
        assert (len(found) > 1) == (what != "no gzip")
        assert result.exit_code == 1
        assert "data/audit.jsonl.1.gz cannot be read" in result.stderr
        assert "Traceback" not in result.stderr
        nothing = zoomgate("audit", "show", "--user", "nobody@example.com")
        assert nothing.exit_code == 1

    def test_a_file_that_is_packed_otherwise_is_named(self) -> None:
        """What logrotate packed with another program is not read as lines: it is said, and what to do."""
        write(line(request_id="old"), name="audit.jsonl.2.xz")
        write(line(request_id="new"))
        result = zoomgate("audit", "show", "--json")
        assert [json.loads(text)["request_id"] for text in result.stdout.splitlines()] == ["new"]
        assert "audit.jsonl.2.xz is packed in a way that is not read here: unpack it" in result.stderr
        assert result.exit_code == 1

    def test_lines_are_counted_as_an_editor_does(self) -> None:
        """An empty line, as a line behind one without room may leave it, has a number too."""
        write(line(), "", "damaged", line())
        assert "data/audit.jsonl:3 is damaged" in zoomgate("audit", "show").stderr

    def test_a_name_with_brackets_is_a_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file whose name looks like a pattern has its rotated files beside it all the same."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "data/trail[1]")
        write(line(request_id="old"), name="trail[1].1")
        write(line(request_id="new"), name="trail[1]")
        assert [found["request_id"] for found in shown()] == ["old", "new"]

    def test_a_line_behind_a_torn_one_is_found(self) -> None:
        """A whole line that follows the rest of one for which there was no room is shown, and the place is named."""
        write(line(request_id="1"), line(request_id="torn")[:50] + line(request_id="2"))
        result = zoomgate("audit", "show", "--json")
        assert [json.loads(text)["request_id"] for text in done(result).splitlines()] == ["1", "2"]
        assert "data/audit.jsonl:2 is damaged" in result.stderr

    def test_the_trail_is_found_in_a_log(self) -> None:
        """Of the lines of a log those of the trail are shown; the others are no damage."""
        told = {"source": "zoomgate.audit", "event": "audit", "level": "info"} | json.loads(line())
        others = [{"source": "zoomgate.access", "event": "rpc", "time": OLD}, {"source": "x", "event": "y"}]
        write(
            *(json.dumps(each, separators=(",", ":")) for each in [others[0], told, others[1]]),
            '{"source":"cut',
        )
        result = zoomgate("audit", "show", "--json", "data/audit.jsonl")
        assert [json.loads(text) for text in done(result).splitlines()] == [told]
        assert result.stderr == "zoomgate: data/audit.jsonl:4 is damaged, and was left out\n"

    def test_a_trail_in_the_log_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ZOOMGATE_AUDIT=log there is no file to read, and that is said."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "log")
        assert "among the lines of the log" in refused(zoomgate("audit", "show"))

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--since", "yesterday"],
            ["--since", "2020-01-07T09:00:00"],
            ["--action", "tokens"],
            ["--user", "Monica@example.com"],
            ["--user", "monica"],
            ["--fingerprint", "9f2c4e6a"],
            ["--fingerprint", "a token that was found"],
            ["missing.jsonl"],
        ],
    )
    def test_wrong_usage_is_said(self, arguments: list[str]) -> None:
        """What no line can have is not searched for: "not found" would be taken for an answer. Nor is a file that is not there."""
        write(line())
        refused(zoomgate("audit", "show", *arguments), 2)

    def test_a_token_in_place_of_a_fingerprint_is_not_repeated(self) -> None:
        """Who gives the token itself is told what to write, and terminal and shell logs do not get the token from us."""
        said = refused(zoomgate("audit", "show", "--fingerprint", "eyJzdiI6IjAwMDAwMiJ9"), 2)
        assert "zoomgate audit fingerprint" in said
        assert "eyJ" not in said


class TestFingerprint:
    """`zoomgate audit fingerprint`."""

    async def test_a_token_that_was_found_leads_to_who_got_it(self) -> None:
        """The fingerprint of a token, made after a rotation of the keys, finds the line of its hand-out; that of another finds none."""
        async with running(Path("data")) as service:
            await service.connect()
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
        done(await command("keys", "rotate", "--now"))
        for secret in (token.access_token, token.refresh_token):
            mark = done(await command("audit", "fingerprint", answer=f"{secret}\n")).strip()
            found = await command("audit", "show", "--json", "--fingerprint", mark)
            actions = [json.loads(text)["action"] for text in done(found).splitlines()]
            assert actions == ["connection.stored", "token.returned"]
        other = done(await command("audit", "fingerprint", answer="another-token")).strip()
        refused(await command("audit", "show", "--fingerprint", other), 3)

    @pytest.mark.parametrize(
        "answer",
        ["", " \n", "two tokens", "tok\x00en", b"\xfftoken", "token".encode("utf-16")],
        ids=["none", "blank", "two", "control characters", "no UTF-8", "UTF-16"],
    )
    def test_one_token_is_read(self, answer: str | bytes) -> None:
        """None and several are refused, and what is no text as well: "not found" would be taken for an answer."""
        assert "`zoomgate audit fingerprint < file`" in refused(
            zoomgate("audit", "fingerprint", answer=answer)
        )

    def test_a_store_that_is_not_there_is_named(self) -> None:
        """Without ring or store there are no fingerprints; none is made."""
        refused(zoomgate("audit", "fingerprint", answer="token"))
        done(zoomgate("keys", "new"))
        assert "There is no store" in refused(zoomgate("audit", "fingerprint", answer="token"))
        assert not Path("data/zoomgate.db").exists()


class TestCommands:
    """Commands that change keys, callers or the store."""

    async def test_what_they_did_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each has its line, under the user of the machine and who called sudo, as the page shows it, and without a secret."""
        monkeypatch.setenv("SUDO_USER", "alice")
        Path("data").mkdir()
        done(await command("keys", "new"))
        first = key_file.load(Path("data/keys.json")).primary_id
        async with running(Path("data")) as service:
            await service.connect()
        done(await command("keys", "rotate", "--now"))
        os.utime("data/keys.json", (time.time() - 60,) * 2)
        done(await command("keys", "reencrypt"))
        done(await command("keys", "retire", first))
        key = done(await command("callers", "add", "calendar", "--role", "service", "--users", "*")).strip()
        done(await command("store", "backup", "copy.db"))
        for path in Path("data").glob("zoomgate.db*"):
            path.unlink()
        done(await command("store", "restore", "copy.db"))
        lines = [told for told in shown() if told["role"] == "operator"]
        assert [told["action"] for told in lines] == [
            "keys.created",
            "keys.added",
            "keys.promoted",
            "keys.reencrypted",
            "keys.reencrypted",
            "keys.retired",
            "callers.added",
            "store.backed_up",
            "store.restored",
        ]
        assert {(told["on_behalf_of"], told["outcome"]) for told in lines} == {("alice", "ok")}
        assert all(told["principal"] for told in lines)
        text = Path("data/audit.jsonl").read_text()
        assert key not in text
        assert "secret" not in text
        page = (Path(__file__).parents[3] / "docs/audit.md").read_text()
        examples = {told["action"]: told for told in map(json.loads, _examples(page))}
        for told in lines:
            assert list(examples[told["action"]]) == list(told)
            assert list(examples[told["action"]]["details"]) == list(told["details"])

    def test_a_trail_that_cannot_be_written_stops_them(self) -> None:
        """Nothing is changed, and no key printed, where the line could not follow."""
        Path("data/audit.jsonl").mkdir(parents=True)
        for arguments in (["keys", "new"], ["callers", "add", "calendar", "--role", "service"]):
            assert "nothing was changed" in refused(zoomgate(*arguments))
        assert not Path("data/keys.json").exists()
        assert not Path("callers.toml").exists()

    def test_a_line_that_finds_no_room_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was done is said, with what to do, and a key that nobody can trace is not printed."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "/dev/full")
        said = refused(zoomgate("callers", "add", "calendar", "--role", "service"))
        assert "callers.added was done, and /dev/full does not tell so" in said

    def test_without_a_data_folder_there_is_nothing_to_tell(self) -> None:
        """A key ring that is made before there is a service leaves no folder behind."""
        done(zoomgate("keys", "new", "elsewhere.json"))
        assert not Path("data").exists()

    async def test_a_restore_on_a_new_machine_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first command of a new machine makes the data folder, and has its line there; a backup that is not there makes none."""
        async with running(Path("data")) as service:
            await service.connect()
        done(await command("store", "backup", "copy.db"))
        monkeypatch.setenv("ZOOMGATE_DATA_DIR", "fresh")
        monkeypatch.setenv("ZOOMGATE_KEYS", "data/keys.json")
        refused(await command("store", "restore", "missing.db"))
        assert not Path("fresh").exists()
        done(await command("store", "restore", "copy.db"))
        assert [told["action"] for told in shown()] == ["store.restored"]

    def test_the_log_gets_the_line_where_the_settings_say_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ZOOMGATE_AUDIT=log nothing is written to the data folder."""
        monkeypatch.setenv("ZOOMGATE_AUDIT", "log")
        done(zoomgate("keys", "new"))
        assert not Path("data/audit.jsonl").exists()

    def test_a_user_without_a_name_has_a_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a container whose user the system does not know, the number stands for the name."""
        Path("data").mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: 987_654)
        trail = audit_log.AuditLog(None)
        trail.record("keys.created")
        assert audit_log._user() == "uid 987654"


def _examples(page: str) -> list[str]:
    return [text for text in page.splitlines() if text.startswith('{"time"')]
