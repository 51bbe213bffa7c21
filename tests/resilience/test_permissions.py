"""A store that may be read and not written, at the start and later."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest
from pymongo import MongoClient

from support.harness import MONICA, OMAR, Harness, running
from support.mongodb import OwnServer
from support.tcp_proxy import Way, proxying
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.encryption import key_file
from zoomgate_server.startup import StartError

STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
PASSWORD = "hunter2"

OBEYS_MODES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0 and any(libc.prctl(24, right, 0, 0, 0) for right in (1, 2)):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program for which modes of files count, root or not: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, see capabilities(7)."""


def zoomgate(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, as somebody for whom modes count."""
    (folder / "callers.toml").write_text(
        f'[[callers]]\nname = "omar"\nrole = "member"\nemail = "{OMAR}"\nkey_sha256 = "{"a" * 64}"\n',
        encoding="utf-8",
    )
    (folder / "callers.toml").chmod(0o600)
    result = subprocess.run(
        [sys.executable, "-c", OBEYS_MODES, sys.executable, "-m", "zoomgate_server", command],
        cwd=folder,
        env={
            "ZOOMGATE_DATA_DIR": "data",
            "ZOOMGATE_KEYS": "keys.json",
            "ZOOMGATE_CALLERS": "callers.toml",
            "ZOOMGATE_CLIENT_ID": "app",
            "ZOOMGATE_CLIENT_SECRET": "hush",
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:1/oauth",
            "ZOOMGATE_LOG_LEVEL": "error",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if result.returncode == 77:
        pytest.skip("root may write everything here, and cannot give that up")
    return result


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("file", "folder", "remedy"),
    [
        (
            0o400,
            0o700,
            "data/zoomgate.db cannot be written: check the owner and mode of the file and its folder",
        ),
        (
            0o600,
            0o500,
            "data/zoomgate.db cannot be written: check the owner and mode of the file and its folder",
        ),
        (
            0o000,
            0o700,
            "data/zoomgate.db cannot be written: check the owner and mode of the file and its folder",
        ),
        (None, 0o500, "data/zoomgate.db cannot be made (Permission denied)"),
        (0o600, 0o600, "cannot create or use data (Permission denied); check its owner and mode"),
    ],
)
async def test_a_file_that_may_not_be_written(
    tmp_path: Path, file: int | None, folder: int, remedy: str
) -> None:
    """A start refuses in one sentence, whether file or folder is for reading alone, and leaves both as they are; so does doctor."""
    key_file.create(tmp_path / "keys.json")
    (tmp_path / "data").mkdir()
    store = tmp_path / "data" / "zoomgate.db"
    if file is not None:
        async with running(tmp_path / "data", environ={"ZOOMGATE_KEYS": str(tmp_path / "keys.json")}):
            pass
        before = store.read_bytes()
        store.chmod(file)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    (tmp_path / "data").chmod(folder)
    started, looked = zoomgate(tmp_path, "serve"), zoomgate(tmp_path, "doctor")
    (tmp_path / "data").chmod(0o700)
    assert (started.returncode, started.stdout, started.stderr.count("\n")) == (1, "", 1), started.stderr
    assert remedy in started.stderr
    assert looked.returncode == 1
    failed = [line for line in looked.stdout.splitlines() if line.startswith("FAIL") and "Zoom" not in line]
    assert failed
    assert all("check " in line or "make the service's user its owner" in line for line in failed), failed
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    if file is not None:
        store.chmod(0o600)
        assert store.read_bytes() == before


@pytest.mark.e2e
def test_the_modes_of_these_tests_count(tmp_path: Path) -> None:
    """What runs the commands above may not write what only root could."""
    (tmp_path / "x").touch(0o400)
    code = f"import os; print(os.access({str(tmp_path / 'x')!r}, os.W_OK))"
    result = subprocess.run(
        [sys.executable, "-c", OBEYS_MODES, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 77 or result.stdout == "False\n"


@pytest.fixture
def guarded(tmp_path: Path) -> OwnServer:
    """A MongoDB-compatible server with two users: `writer`, who may write, and `reader`, who may not."""
    server = OwnServer(tmp_path)
    server.start()
    with MongoClient(server.uri) as client:
        for user, role in (("writer", "readWrite"), ("reader", "read")):
            rights = [{"role": role, "db": "zoomgate"}]
            client["zoomgate"].command("createUser", user, pwd=PASSWORD, roles=rights)
        client["admin"].command("createUser", "root", pwd=PASSWORD, roles=["root"])
    server.close()
    return OwnServer(tmp_path, "--auth")


async def test_a_user_of_the_database_who_may_not_write(tmp_path: Path, guarded: OwnServer) -> None:
    """Is refused at the start in one sentence; one who loses the right later costs those alone who need a write, until it is back.

    The server of the tests looks at rights when a connection begins, so connections are cut here; MongoDB needs no such thing.
    """
    await asyncio.to_thread(guarded.start)
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    try:
        async with proxying(guarded.address) as proxy:
            host = f"127.0.0.1:{proxy.port}/zoomgate?directConnection=true"
            for user, password, reason in (
                (
                    "reader",
                    PASSWORD,
                    "gives its user too few rights: grant the role readWrite on that database",
                ),
                ("writer", "wrong", "refuses user and password"),
            ):
                refused = environ | {"ZOOMGATE_STORE": f"mongodb://{user}:{password}@{host}"}
                with pytest.raises(StartError, match=reason) as error:
                    async with running(tmp_path / "data", environ=refused):
                        pass
                assert PASSWORD not in str(error.value)
            given = environ | {"ZOOMGATE_STORE": f"mongodb://writer:{PASSWORD}@{host}"}
            async with running(tmp_path / "data", environ=given) as zoomgate:
                await zoomgate.connect()
                first = await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
                refresh = auth.RefreshTokenRequest(user_email=MONICA)
                with MongoClient(f"mongodb://root:{PASSWORD}@127.0.0.1:{guarded.address[1]}/admin") as admin:

                    def may(role: str) -> None:
                        rights = [{"role": role, "db": "zoomgate"}]
                        admin["zoomgate"].command("updateUser", "writer", roles=rights)

                    for role, answers in (("read", False), ("readWrite", True)):
                        await asyncio.to_thread(may, role)
                        proxy.turn(Way.CUT)
                        assert (await zoomgate.refusal(zoomgate.auth.RefreshToken, refresh)).short == STORE
                        proxy.turn(Way.FORWARD)
                        while not await reads(zoomgate):
                            await asyncio.sleep(0.01)
                        if not answers:
                            refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, refresh)
                            assert refusal.short == STORE
                            begin = auth.BeginAuthorizationRequest(user_email=OMAR)
                            refusal = await zoomgate.refusal(zoomgate.auth.BeginAuthorization, begin)
                            assert refusal.short == STORE
                            kept = await zoomgate.call(
                                zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA)
                            )
                            assert kept.token.access_token == first.token.access_token
                            assert zoomgate.stat("token.refresh_token.issued") == 0
                answer = await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
                assert answer.token.generation == 2
    finally:
        await asyncio.to_thread(guarded.close)


async def reads(zoomgate: Harness) -> bool:
    """Whether the store is read again."""
    wanted = auth.GetConnectionRequest(user_email=MONICA)
    try:
        await zoomgate.call(zoomgate.auth.GetConnection, wanted)
    except grpc.aio.AioRpcError:
        return False
    return True
