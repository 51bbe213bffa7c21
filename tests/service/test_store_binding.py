"""Tests for the binding of a journal to its store: a service does not start with an empty, missing or different store."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.command_line import command, stderr_of, stdout_of
from support.harness import MONICA, OMAR, Harness, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server import settings
from zoomgate_server.app import store_binding
from zoomgate_server.encryption import key_file
from zoomgate_server.startup import StartError
from zoomgate_server.storage.sqlite import SqliteStore

STORE = "ZOOMGATE_STORE"
ADOPT = "run `zoomgate store adopt`"


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
async def zoom() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorOptions(port=0)) as simulator:
        yield simulator


@pytest.fixture
async def stopped(zoom: Simulator) -> str:
    """Run a service with a connected user, and return the ID of its store."""
    async with serving(zoom, Path("data")) as service:
        await service.connect()
    return bound_id()


def bindings() -> list[Path]:
    return list(Path("data/journal").glob("*.store"))


def bound_id() -> str:
    """Return the ID of the store to which the journal belongs."""
    (path,) = bindings()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text().splitlines()[0]


async def start_error(zoom: Simulator, store: str | None = None) -> str:
    """Start a service that must fail to start, and return the error."""
    with pytest.raises(StartError) as failed:
        async with serving(zoom, Path("data"), {STORE: store} if store else {}):
            pass
    return str(failed.value)


async def create_empty(path: str) -> None:
    await (await SqliteStore.open(Path(path), time.time)).close()


async def apps_in(path: str) -> list[str]:
    store = await SqliteStore.open(Path(path), time.time)
    try:
        return list(await store.apps())
    finally:
        await store.close()


async def token_status(service: Harness) -> None:
    await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))


async def test_missing_store_is_not_created(zoom: Simulator, stopped: str) -> None:
    Path("data/zoomgate.db").rename("moved.db")
    before = sorted(Path("data").iterdir())
    error = await start_error(zoom)
    assert f"data/journal belongs to store {stopped}, but data/zoomgate.db is missing or empty" in error
    assert ADOPT in error
    assert sorted(Path("data").iterdir()) == before
    Path("moved.db").rename("data/zoomgate.db")
    async with serving(zoom, Path("data")) as service:
        await token_status(service)


async def test_nothing_is_written_to_an_empty_store(zoom: Simulator, stopped: str) -> None:
    """A backup can therefore still be restored into the store, and the service starts with the restored store."""
    stdout_of(await command("store", "backup", "backup.db"))
    await create_empty("empty.db")
    assert "missing or empty" in await start_error(zoom, "sqlite:///empty.db")
    assert await apps_in("empty.db") == []
    environ = {STORE: "sqlite:///empty.db"}
    stdout_of(await command("store", "restore", "backup.db", environ=environ))
    async with serving(zoom, Path("data"), environ) as service:
        await token_status(service)
    assert bound_id() == stopped


async def test_different_store_is_rejected(zoom: Simulator, stopped: str) -> None:
    """The error names both stores."""
    keys = {"ZOOMGATE_KEYS": "data/keys.json", STORE: "sqlite:///other.db"}
    async with serving(zoom, Path("elsewhere"), keys):
        pass
    error = await start_error(zoom, "sqlite:///other.db")
    (path,) = Path("elsewhere/journal").glob("*.store")
    assert f"belongs to store {stopped}, but other.db is store {path.read_text().splitlines()[0]}" in error


async def test_new_journal_is_bound_to_the_first_store(zoom: Simulator, stopped: str) -> None:
    """A store can be moved to a different machine without its journal."""
    shutil.copytree("data", "new")
    shutil.rmtree("new/journal")
    async with serving(zoom, Path("new")) as service:
        await token_status(service)
    (path,) = Path("new/journal").glob("*.store")
    assert path.read_text().splitlines()[0] == stopped


async def test_services_of_two_apps_can_share_a_store_and_a_journal(zoom: Simulator, stopped: str) -> None:
    """Each app has its own ID in the store."""
    async with (
        Simulator(SimulatorOptions(port=0, client_id="other-app")) as other,
        serving(other, Path("data")) as second,
        serving(zoom, Path("data")) as first,
    ):
        await second.connect(OMAR)
        await token_status(first)
    assert len({path.read_text().splitlines()[0] for path in bindings()}) == 2


async def test_services_that_start_at_the_same_time_agree_on_the_store(zoom: Simulator) -> None:
    async with contextlib.AsyncExitStack() as stack:
        starts = (stack.enter_async_context(serving(zoom, Path("data"))) for _ in range(4))
        services = await asyncio.gather(*starts)
        await services[0].connect()
        await token_status(services[3])
    assert bound_id()


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune",),
        ("prune", "--dry-run"),
        ("store", "backup", "backup.db"),
        ("keys", "reencrypt"),
        ("keys", "retire", "OLD"),
        ("audit", "fingerprint"),
    ],
)
async def test_commands_reject_a_store_of_a_different_journal(
    zoom: Simulator, stopped: str, arguments: tuple[str, ...]
) -> None:
    """Neither store and no key is changed: a key that is unused in the other store can be in use in the right one."""
    async with serving(
        zoom, Path("elsewhere"), {"ZOOMGATE_KEYS": "data/keys.json", STORE: "sqlite:///other.db"}
    ):
        pass
    keys = Path("data/keys.json")
    old = key_file.load(keys).primary_id
    added = key_file.add(keys, key_file.load(keys))
    key_file.promote(keys, key_file.load(keys), added)
    os.utime(keys, (0, 0))
    before = keys.read_bytes(), Path("other.db").read_bytes()
    command_line = [old if argument == "OLD" else argument for argument in arguments]
    error = stderr_of(await command(*command_line, environ={STORE: "sqlite:///other.db"}, stdin="token"))
    assert f"belongs to store {stopped}, but other.db is store" in error
    assert (keys.read_bytes(), Path("other.db").read_bytes()) == before
    assert not Path("backup.db").exists()


async def test_unreadable_binding_fails_the_start(zoom: Simulator, stopped: str) -> None:
    (path,) = bindings()
    path.unlink()
    path.mkdir()
    assert (
        await start_error(zoom) == f"{path} cannot be read (Is a directory); check its owner and permissions"
    )


class TestAdopt:
    """Tests for `zoomgate store adopt`."""

    @pytest.fixture
    async def other(self, zoom: Simulator, stopped: str) -> str:
        """Configure a different store, and return its ID."""
        environ = {"ZOOMGATE_KEYS": "data/keys.json", STORE: "sqlite:///other.db"}
        async with serving(zoom, Path("elsewhere"), environ):
            pass
        (path,) = Path("elsewhere/journal").glob("*.store")
        return path.read_text().splitlines()[0]

    async def test_service_starts_with_the_adopted_store(
        self, zoom: Simulator, stopped: str, other: str
    ) -> None:
        """Both stores are shown, and the change is audited."""
        environ = {STORE: "sqlite:///other.db"}
        result = await command("store", "adopt", environ=environ, stdin="y\n")
        assert stdout_of(result).startswith(f"The journal belongs to store {other} now.")
        assert f"belongs to store {stopped}, but other.db is store {other}" in result.stderr
        assert bound_id() == other
        line = json.loads(Path("data/audit.jsonl").read_text().splitlines()[-1])
        assert (line["action"], line["role"]) == ("store.adopted", "operator")
        assert line["details"] == {"store_id": other, "previous_store_id": stopped}
        async with serving(zoom, Path("data"), environ):
            pass
        assert ADOPT in await start_error(zoom)

    async def test_declined_confirmation_changes_nothing(self, stopped: str, other: str) -> None:
        assert "with --yes" in stderr_of(
            await command("store", "adopt", environ={STORE: "sqlite:///other.db"})
        )
        result = await command("store", "adopt", environ={STORE: "sqlite:///other.db"}, stdin="n\n")
        assert result.exit_code == 1
        assert bound_id() == stopped
        assert "store.adopted" not in Path("data/audit.jsonl").read_text()

    @pytest.mark.parametrize("exists", [False, True])
    async def test_journal_can_be_bound_to_the_next_store(
        self, zoom: Simulator, stopped: str, exists: bool
    ) -> None:
        """If the configured store is missing or empty, the journal is bound when the service starts."""
        Path("data/zoomgate.db").rename("moved.db")
        if exists:
            await create_empty("data/zoomgate.db")
        output = stdout_of(await command("store", "adopt", "--yes", "--json"))
        assert json.loads(output) == {
            "app": f"loopback|{zoom.options.client_id}",
            "storeId": None,
            "previousStoreId": stopped,
        }
        assert bindings() == []
        async with serving(zoom, Path("data")):
            pass
        assert bound_id() != stopped

    async def test_journal_of_a_running_service_is_not_changed(self, zoom: Simulator) -> None:
        """The journal of a service can be adopted as soon as the service has stopped."""
        environ = {STORE: "sqlite:///other.db"}
        async with serving(zoom, Path("data")):
            before = bound_id()
            error = stderr_of(await command("store", "adopt", "--yes", environ=environ))
            assert "stop the service, then run this command again" in error
            assert bound_id() == before
        stdout_of(await command("store", "adopt", "--yes", environ=environ))

    async def test_service_does_not_start_during_the_command(self, zoom: Simulator, stopped: str) -> None:
        with store_binding.lock(settings.load({"ZOOMGATE_DATA_DIR": "data"}), fcntl.LOCK_EX):
            assert "`zoomgate store adopt` is running" in await start_error(zoom)

    async def test_nothing_to_adopt_is_not_an_error(self, stopped: str) -> None:
        result = await command("store", "adopt")
        assert stdout_of(result) == ""
        assert "nothing was changed" in result.stderr
        result = await command("store", "adopt", environ={"ZOOMGATE_DATA_DIR": "new"})
        assert stdout_of(result) == ""
        assert "there is no journal in new" in result.stderr

    async def test_store_that_cannot_be_decrypted_is_not_adopted(self, stopped: str, other: str) -> None:
        key_file.create(Path("keys.json"))
        environ = {STORE: "sqlite:///other.db", "ZOOMGATE_KEYS": "keys.json"}
        assert "ZOOMGATE_KEYS is keys.json" in stderr_of(
            await command("store", "adopt", "--yes", environ=environ)
        )
        assert bound_id() == stopped

    async def test_other_app_may_use_a_different_key_ring(self, zoom: Simulator, stopped: str) -> None:
        """The services of two apps share a store, but not their keys."""
        async with (
            Simulator(SimulatorOptions(port=0, client_id="other-app")) as other,
            serving(other, Path("elsewhere"), {STORE: "sqlite:///other.db"}),
        ):
            pass
        environ = {
            STORE: "sqlite:///other.db",
            "ZOOMGATE_CLIENT_ID": zoom.options.client_id,
            "ZOOMGATE_CLIENT_SECRET": zoom.options.client_secret,
            "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        }
        stdout_of(await command("store", "adopt", "--yes", environ=environ))
        assert bindings() == []

    async def test_doctor_names_the_command(self, stopped: str, other: str) -> None:
        async def journal_check(store: str) -> tuple[str, str]:
            result = await command("doctor", "--json", environ={STORE: store})
            rows = map(json.loads, result.stdout.splitlines())
            return next((row["result"], row["text"]) for row in rows if row["check"] == "journal")

        assert await journal_check("sqlite:///data/zoomgate.db") == (
            "ok",
            f"belongs to the configured store ({stopped})",
        )
        for store in ("sqlite:///other.db", "sqlite:///missing.db"):
            result, text = await journal_check(store)
            assert (result, ADOPT in text) == ("failure", True), store
        stdout_of(await command("store", "adopt", "--yes", environ={STORE: "sqlite:///missing.db"}))
        result, text = await journal_check("sqlite:///missing.db")
        assert (result, "belongs to no store yet" in text) == ("ok", True)
