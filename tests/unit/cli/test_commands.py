"""The commands, through click's runner and, where they are clients, against a running service."""

import hashlib
import json
import re
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import Result

from support.command_line import command, done, refused, zoomgate
from support.harness import MONICA, OMAR, Harness, key_of, running
from support.raw_upstream import answer, raw_upstream
from zoomgate_server.encryption import key_file
from zoomgate_server.identity import Role
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS

COMMANDS = (
    "run",
    "serve",
    "simulator",
    "simulator fault",
    "simulator expire",
    "simulator event",
    "simulator stats",
    "connect",
    "connections list",
    "connections show",
    "connections refresh",
    "connections delete",
    "callers add",
    "keys new",
    "keys list",
    "keys rotate",
    "keys reencrypt",
    "keys retire",
    "store backup",
    "store restore",
    "store upgrade",
    "meetings create",
    "meetings get",
    "meetings delete",
    "proxy get",
    "proxy delete",
    "proxy post",
    "proxy patch",
    "proxy put",
    "token check",
    "token get",
    "doctor",
    "completion",
)

APP = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET": "hush"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    """Help of every command says what it does and shows one call."""
    text = done(zoomgate(*command.split(), "--help"))
    assert f"zoomgate {command.split(maxsplit=1)[0]}" in text
    assert "Example: " in text


def test_every_option_that_stands_for_a_setting_names_it() -> None:
    """Whoever reads the help learns the setting behind the option."""
    text = done(zoomgate("serve", "--help"))
    for option, setting in (("--listen", "LISTEN"), ("--http-listen", "HTTP_LISTEN"), ("--store", "STORE")):
        assert option in text
        assert f"[ZOOMGATE_{setting}]" in " ".join(text.split())


class TestCallersAdd:
    """`zoomgate callers add`."""

    def test_the_key_is_printed_once_and_its_digest_kept(self, folder: Path) -> None:
        """Standard output is the key alone; the file, mode 0600, holds only its SHA-256 and what was granted."""
        key = done(
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
        (caller,) = callers_file.load(file, CALLABLE_METHODS)
        assert caller.key_sha256 == hashlib.sha256(key.encode()).hexdigest()
        who = caller.principal
        assert (who.name, who.access_tokens, who.refresh_tokens) == ("calendar", True, False)
        assert who.users.matches("anybody@example.com")
        assert who.proxy_paths == ("/users/me/**",)

    def test_rows_are_added_behind_what_is_there(self, folder: Path) -> None:
        """Comments and rows of the file stay, and so does its mode, since the service may read it through its group."""
        file = folder / "own.toml"
        file.write_text("# ours\n")
        file.chmod(0o640)
        done(zoomgate("callers", "add", "ops", "--role", "admin", "--file", "own.toml"))
        done(
            zoomgate("callers", "add", "monica", "--role", "member", "--email", MONICA, "--file", "own.toml")
        )
        assert file.read_text().startswith("# ours\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        found = callers_file.load(file, CALLABLE_METHODS)
        assert [caller.principal.roles for caller in found] == [{Role.ADMIN}, {Role.MEMBER}]
        assert sorted(path.name for path in folder.iterdir()) == ["own.toml"]

    def test_a_link_stays_a_link(self, folder: Path) -> None:
        """The file behind a link is written."""
        (folder / "real").mkdir()
        (folder / "real" / "callers.toml").touch()
        (folder / "callers.toml").symlink_to("real/callers.toml")
        done(zoomgate("callers", "add", "ops", "--role", "admin"))
        assert (folder / "callers.toml").is_symlink()
        assert "ops" in (folder / "real" / "callers.toml").read_text()

    def test_the_file_is_the_one_of_the_settings(self, folder: Path) -> None:
        """Without --file the settings say where, the settings file included."""
        (folder / "z.toml").write_text('callers = "from-file.toml"\n')
        done(
            zoomgate("callers", "add", "a", "--role", "admin", environ={"ZOOMGATE_CALLERS": "from-env.toml"})
        )
        done(zoomgate("callers", "add", "a", "--role", "admin", environ={"ZOOMGATE_CONFIG": "z.toml"}))
        assert {"from-env.toml", "from-file.toml"} <= {path.name for path in folder.iterdir()}
        text = refused(zoomgate("callers", "add", "a", "--role", "admin", environ={"ZOOMGATE_LISTN": "x"}))
        assert "name the file with --file" in text

    def test_a_service_that_may_act_for_nobody_is_pointed_out(self) -> None:
        """It is allowed, and hardly meant."""
        assert "may act for nobody yet" in zoomgate("callers", "add", "a", "--role", "service").stderr
        assert "nobody" not in zoomgate("callers", "add", "b", "--role", "service", "--users", "*").stderr

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["Calendar", "--role", "service"], "name must be"),
            (['a"\nrole = "admin', "--role", "service"], "name must be"),
            (["taken", "--role", "service"], "name is already used by another caller"),
            (["a", "--role", "member"], "email is required"),
            (["a", "--role", "member", "--email", 'x@example.com"'], "email has a domain"),
            (["a", "--role", "admin", "--access-tokens"], "access_tokens is for services only"),
            (["a", "--role", "service", "--users", "*@*"], "users contains '*@*'"),
            (["a", "--role", "service", "--users", "\udcff"], "users contains"),
            (["a", "--role", "service", "--methods", "Nope.*"], "methods contains 'Nope.*'"),
        ],
    )
    def test_a_row_that_the_service_would_refuse_is_not_written(
        self, folder: Path, arguments: Sequence[str], reason: str
    ) -> None:
        """The file stays as it was, byte for byte, and no key is printed."""
        done(zoomgate("callers", "add", "taken", "--role", "admin"))
        before = (folder / "callers.toml").read_bytes()
        assert reason in refused(zoomgate("callers", "add", *arguments))
        assert (folder / "callers.toml").read_bytes() == before
        assert len(list(folder.iterdir())) == 1

    def test_a_damaged_file_is_left_alone(self, folder: Path) -> None:
        """What cannot be understood is not added to."""
        (folder / "callers.toml").write_bytes(b"\xff")
        assert "not UTF-8" in refused(zoomgate("callers", "add", "a", "--role", "admin"))
        (folder / "callers.toml").write_text("callers = []\n")
        assert "callers.toml" in refused(zoomgate("callers", "add", "a", "--role", "admin"))
        assert "cannot be written" in refused(
            zoomgate("callers", "add", "a", "--role", "admin", "--file", "no/such/folder.toml")
        )

    def test_wrong_usage_has_a_code_of_its_own(self) -> None:
        """A role that does not exist is wrong usage."""
        assert "root" in refused(zoomgate("callers", "add", "a", "--role", "root"), 2)


class TestKeysNew:
    """`zoomgate keys new`."""

    def test_only_the_id_is_printed(self, folder: Path) -> None:
        """The ring is in the file, mode 0600; standard output has its id and nothing else."""
        key_id = done(zoomgate("keys", "new", "safe/keys.json")).strip()
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
    def test_the_ring_is_where_the_service_looks_for_it(
        self, folder: Path, environ: dict[str, str], expected: str
    ) -> None:
        """Without a path the settings say where."""
        done(zoomgate("keys", "new", environ=environ))
        assert (folder / expected).is_file()

    def test_a_ring_is_never_overwritten(self, folder: Path) -> None:
        """The second attempt fails, and the first ring stays."""
        done(zoomgate("keys", "new", "keys.json"))
        before = (folder / "keys.json").read_bytes()
        assert "never overwritten" in refused(zoomgate("keys", "new", "keys.json"))
        assert (folder / "keys.json").read_bytes() == before


class TestDoctor:
    """`zoomgate doctor`."""

    def test_an_empty_folder_is_fine_and_stays_empty(self, folder: Path) -> None:
        """Nothing set up yet is no failure, and looking changes nothing."""
        text = done(zoomgate("doctor"))
        assert "FAIL" not in text
        assert list(folder.iterdir()) == []

    def test_everything_wrong_with_the_settings_is_listed(self) -> None:
        """One line a mistake, exit code 1."""
        result = zoomgate("doctor", environ={"ZOOMGATE_LISTEN": "0.0.0.0:1", "ZOOMGATE_LISTN": "x"})
        assert result.exit_code == 1
        assert [line.split()[0] for line in result.stdout.splitlines()] == ["FAIL", "FAIL"]

    def test_what_would_not_start_fails(self, folder: Path) -> None:
        """A store, a ring or a callers file that the service would refuse is a failure with a remedy."""
        data = folder / "data"
        data.mkdir(mode=0o755)
        (data / "zoomgate.db").write_text("no database" * 100)
        (data / "keys.json").write_text("{}")
        (data / "keys.json").chmod(0o644)
        (data / "audit.jsonl").mkdir()
        (folder / "callers.toml").write_text("[[callers]]\nname = 1\n")
        result = zoomgate(
            "doctor", "--json", "--data-dir", "data", environ={"ZOOMGATE_CALLERS": "callers.toml"}
        )
        found = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
        assert result.exit_code == 1
        assert {name for name, row in found.items() if row["result"] == "failure"} == {
            "store",
            "audit trail",
            "key ring",
            "callers",
        }
        assert found["data folder"]["result"] == "warning"
        assert "chmod 600" in found["key ring"]["text"]
        assert "callers.toml:2" in found["callers"]["text"]

    @pytest.mark.parametrize("missing", ["elsewhere/audit.jsonl", "callers.toml/audit.jsonl"])
    def test_a_trail_that_could_not_be_made_fails(self, folder: Path, missing: str) -> None:
        """Nobody makes a folder for the trail but the data folder, so the service would not start."""
        (folder / "callers.toml").touch()
        result = zoomgate("doctor", environ={"ZOOMGATE_AUDIT": missing})
        assert result.exit_code == 1
        assert f"{missing} cannot be made: make its folder" in result.stdout

    async def test_a_service_and_its_zoom_are_found_well(self, zoomgate: Harness, folder: Path) -> None:
        """With a running service every line is ok, and its folder stays as it was."""
        done(await command("callers", "add", "ops", "--role", "admin"))
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
        events = "2 secret(s) are set; Zoom's events go to https://zoom.example.com/webhooks/zoom"
        assert events in done(result)
        assert {line.split()[0] for line in done(result).splitlines()} == {"ok"}
        assert sorted(path.name for path in zoomgate.data_dir.iterdir()) == before
        assert "hush" not in result.output

    def test_events_that_nobody_hears_are_told(self) -> None:
        """An app without the secret for Zoom's events is warned of; without an app there is nothing to hear."""
        for environ, mark in (
            ({}, "ok"),
            (APP | {"ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:1/oauth"}, "warn"),
        ):
            text = zoomgate("doctor", environ=environ).stdout
            (line,) = [line for line in text.splitlines() if line.split()[1] == "webhooks"]
            assert line.startswith(mark)
            assert "set ZOOMGATE_WEBHOOK_SECRET" in line

    async def test_a_stopped_service_leaves_no_trace_of_the_look(self, folder: Path) -> None:
        """The store of a stopped service is read without a file being made beside it."""
        async with running(folder / "data"):
            pass
        before = sorted(path.name for path in (folder / "data").iterdir())
        done(await command("doctor", "--data-dir", "data"))
        assert sorted(path.name for path in (folder / "data").iterdir()) == before

    @pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
    async def test_whether_the_ring_opens_the_store_is_told(
        self, folder: Path, kind: str, request: pytest.FixtureRequest
    ) -> None:
        """Of one's own app; a ring that does not, or has the right id and the wrong key, fails with what to do, before a start does."""
        key_file.create(folder / "ring")
        environ = {"ZOOMGATE_DATA_DIR": "data", "ZOOMGATE_KEYS": "ring"}
        if kind == "mongodb":
            environ["ZOOMGATE_STORE"] = request.getfixturevalue("mongodb_uri")

        async def ring_row() -> tuple[str, str]:
            result = await command("doctor", "--json", environ=environ)
            row = next(
                row for row in map(json.loads, result.stdout.splitlines()) if row["check"] == "key ring"
            )
            assert result.exit_code == (row["result"] == "failure")
            return row["result"], row["text"]

        if kind == "mongodb":
            assert (await ring_row())[1].endswith("the store has nothing of this app yet")
        async with running(folder / "data", environ=environ) as zoomgate:
            await zoomgate.connect()
            assert (await ring_row())[1].endswith("it opens the store")
        right = (folder / "ring").read_bytes()
        (folder / "ring").unlink()
        key_file.create(folder / "ring")
        result, text = await ring_row()
        assert result == "failure"
        assert "is not in the key ring: put the key file back that has it (ZOOMGATE_KEYS is ring)" in text
        ids = [json.loads(content)["keys"][0]["id"] for content in (right, (folder / "ring").read_bytes())]
        (folder / "ring").write_bytes(
            (folder / "ring").read_bytes().replace(ids[1].encode(), ids[0].encode())
        )
        result, text = await ring_row()
        assert result == "failure"
        assert "put the key file back that the store was made with" in text
        environ |= APP | {"ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:1/oauth"}
        result = await command("doctor", "--json", environ=environ)
        assert "the store has nothing of this app yet" in result.stdout

    def test_what_cannot_be_looked_at_fails(self) -> None:
        """A folder or store that the system does not let anybody look at is a failure, and not taken for one that is not made yet."""
        name = "x" * 300
        result = zoomgate("doctor", "--json", "--data-dir", name)
        found = {row["check"]: row["result"] for row in map(json.loads, result.stdout.splitlines())}
        assert result.exit_code == 1
        assert (found["data folder"], found["store"], found["key ring"]) == ("failure",) * 3
        assert "ZOOMGATE_DATA_DIR" in refused(
            zoomgate("run", "--data-dir", name, "--simulator-listen", "127.0.0.1:0"), 1
        )

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/oauth", "https://a..b/oauth"])
    def test_a_zoom_that_is_not_there_fails(self, url: str) -> None:
        """A Zoom that cannot be reached is said so."""
        result = zoomgate("doctor", environ=APP | {"ZOOMGATE_ZOOM_OAUTH_URL": url})
        assert result.exit_code == 1
        assert f"{url} cannot be reached" in result.stdout

    async def test_what_answers_may_be_no_zoom(self) -> None:
        """Noise counts as unreachable, and a date without a zone as none."""
        dateless = answer("200 OK", b"", "Date: Tue, 24 Nov 2026 21:09:00 -0000")
        async with raw_upstream() as upstream:
            upstream.answers = [b"SSH-2.0-noise\r\n\r\n", dateless]
            upstream.close_after_answer = True
            url = f"http://127.0.0.1:{upstream.port}/oauth"
            for code, text in ((1, "cannot be reached"), (0, "has no date to compare with")):
                result = await command("doctor", environ=APP | {"ZOOMGATE_ZOOM_OAUTH_URL": url})
                assert result.exit_code == code
                assert text in result.stdout


async def client(service: Harness, caller: str, *arguments: str, answer: str = "") -> Result:
    """Run a `connections` command against the service of the test."""
    return await command(
        "connections",
        *arguments,
        "--server",
        service.grpc_address,
        environ={"ZOOMGATE_KEY": key_of(caller)},
        answer=answer,
    )


class TestConnections:
    """`zoomgate connections`."""

    async def test_connections_are_listed(self, zoomgate: Harness) -> None:
        """A table for people, one JSON document a line for programs, filtered by state."""
        assert done(await client(zoomgate, "admin", "list", "--json")) == ""
        await zoomgate.connect(MONICA)
        await zoomgate.connect(OMAR)
        table = done(await client(zoomgate, "admin", "list"))
        assert [line.split()[:2] for line in table.splitlines()[1:]] == [[MONICA, "active"], [OMAR, "active"]]
        rows = done(await client(zoomgate, "admin", "list", "--json")).splitlines()
        assert [json.loads(row)["userEmail"] for row in rows] == [MONICA, OMAR]
        assert done(await client(zoomgate, "admin", "list", "--json", "--state", "disconnected")) == ""

    async def test_a_connection_is_shown_and_ended(self, zoomgate: Harness) -> None:
        """What is shown holds no token; what is ended is disconnected, after a question unless --yes is given."""
        await zoomgate.connect(MONICA)
        shown = done(await client(zoomgate, "admin", "show", MONICA))
        assert MONICA in shown
        assert "sim-" not in shown
        kept = await client(zoomgate, "admin", "delete", MONICA, answer="n\n")
        assert kept.exit_code == 1
        assert (
            json.loads(done(await client(zoomgate, "admin", "show", MONICA, "--json")))["state"]
            == "STATE_ACTIVE"
        )
        ended = done(await client(zoomgate, "admin", "delete", MONICA, "--yes", "--json"))
        assert json.loads(ended)["state"] == "STATE_DISCONNECTED"

    async def test_failures_have_codes_and_next_steps(self, zoomgate: Harness) -> None:
        """Not found is 3, not allowed and unknown are 4, not reachable is 5, wrong usage is 2."""
        missing = refused(await client(zoomgate, "admin", "show", MONICA), 3)
        assert "NOT_FOUND" in missing
        assert f"`zoomgate connect {MONICA}`" in missing
        forbidden = refused(await client(zoomgate, "omar", "show", MONICA), 4)
        assert "PERMISSION_DENIED" in forbidden
        assert "callers file" in forbidden
        assert "--key-file" in refused(await client(zoomgate, "nobody", "list"), 4)
        assert "--key-file" in refused(
            await command("connections", "list", "--server", zoomgate.grpc_address), 4
        )
        nobody = refused(await command("connections", "list", "--server", "127.0.0.1:1"), 5)
        assert nobody.startswith("zoomgate: The service on 127.0.0.1:1 cannot be reached: start it with")
        assert "lower case" in refused(await client(zoomgate, "admin", "show", "Monica@example.com"), 2)

    async def test_the_key_comes_from_a_file_or_the_data_folder(
        self, zoomgate: Harness, folder: Path
    ) -> None:
        """--key-file goes before ZOOMGATE_KEY, which goes before caller.key of the data folder."""
        (folder / "key").write_text(key_of("admin") + "\n")
        assert (await client(zoomgate, "nobody", "list", "--key-file", "key")).exit_code == 0
        (folder / ".zoomgate").mkdir()
        (folder / ".zoomgate" / "caller.key").write_text(key_of("admin"))
        here = ("connections", "list", "--server", zoomgate.grpc_address)
        assert (await command(*here)).exit_code == 0
        assert (await client(zoomgate, "nobody", "list")).exit_code == 4

    def test_a_server_has_a_name_and_a_port(self) -> None:
        """What names no machine is refused before anything is sent."""
        for server in ("localhost", "0.0.0.0:50051", "[::]:50051", ":50051", "http://localhost:1"):
            assert "write HOST:PORT" in refused(zoomgate("connections", "list", "--server", server), 2)

    @pytest.mark.parametrize("key", ["two words", "ключ", "a\nb"])
    def test_what_cannot_be_a_key_is_refused(self, folder: Path, key: str) -> None:
        """The sentence does not repeat it."""
        here = ("connections", "list", "--server", "127.0.0.1:1")
        (folder / "key").write_text(key)
        for result in (zoomgate(*here, environ={"ZOOMGATE_KEY": key}), zoomgate(*here, "--key-file", "key")):
            text = refused(result, 2)
            assert "holds no key" in text
            assert key not in text
        assert "cannot be read" in refused(zoomgate(*here, "--key-file", "none"), 2)


def test_a_mistyped_command_is_told_which_one_was_meant() -> None:
    """At the top as below it; what resembles nothing is refused alone."""
    assert "Did you mean 'connect'?" in refused(zoomgate("conect", MONICA), 2)
    assert "Did you mean" not in refused(zoomgate("qqq"), 2)


def test_a_start_that_is_refused_says_everything_that_is_missing(folder: Path) -> None:
    """`serve` without app and callers names both settings, and changes nothing on disk."""
    text = refused(zoomgate("serve"))
    assert "ZOOMGATE_CLIENT_ID is required" in text
    assert "ZOOMGATE_CALLERS is required" in text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("listen", ["0.0.0.0:8090", "192.0.2.1:8090", "8090", "127.0.0.1:99999"])
def test_the_simulated_zoom_is_for_this_machine_alone(folder: Path, listen: str) -> None:
    """Neither command starts it where others could reach it."""
    assert "must not be reachable from other machines" in refused(
        zoomgate("simulator", "--listen", listen), 2
    )


@pytest.mark.parametrize(
    "url", ["nowhere", "ftp://127.0.0.1/x", "http://127.0.0.1:1", "http://u:p@127.0.0.1/x"]
)
def test_events_go_to_an_address(folder: Path, url: str) -> None:
    """What cannot be one is refused before anything is listened to."""
    assert "use http://127.0.0.1:PORT/PATH" in refused(zoomgate("simulator", "--webhook-url", url), 2)


def test_a_caller_row_survives_a_round_trip(folder: Path) -> None:
    """Whatever is accepted is written as TOML that says the same."""
    done(zoomgate("callers", "add", "a.b-c_d", "--role", "service", "--users", "o'hara@example.com"))
    (row,) = tomllib.loads((folder / "callers.toml").read_text())["callers"]
    assert (row["name"], row["users"]) == ("a.b-c_d", ["o'hara@example.com"])


class TestKeysList:
    """`zoomgate keys list`."""

    def test_keys_are_told_by_their_ids(self, folder: Path) -> None:
        """The ids and their use are shown, the keys never; what is no ring is refused."""
        key_id = done(zoomgate("keys", "new", "ring.json")).strip()
        secrets = re.findall(r"[A-Za-z0-9+/_=-]{40,}", (folder / "ring.json").read_text())
        assert secrets
        table = done(zoomgate("keys", "list", "ring.json"))
        assert table.split() == ["KEY", "USE", key_id, "seals", "and", "opens"]
        document = done(zoomgate("keys", "list", "ring.json", "--json"))
        assert json.loads(document) == {"keyId": key_id, "seals": True}
        assert not any(secret in table + document for secret in secrets)
        refused(zoomgate("keys", "list", "none.json"))
