"""Tests for a store that is read-only at startup or becomes read-only later."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest
from pymongo import MongoClient

from support.harness import MONICA, OMAR, Harness, running
from support.mongodb import OwnServer
from support.tcp_proxy import Mode, tcp_proxy
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.encryption import key_file
from zoomgate_server.startup import StartError

STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
PASSWORD = "hunter2"

WITHOUT_ROOT_OVERRIDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0 and any(libc.prctl(24, right, 0, 0, 0) for right in (1, 2)):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Script that runs a program without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, so that file modes apply to root. See capabilities(7)."""


def zoomgate(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that exits on its own, subject to file modes."""
    (folder / "callers.toml").write_text(
        f'[[callers]]\nname = "omar"\nrole = "member"\nemail = "{OMAR}"\nkey_sha256 = "{"a" * 64}"\n',
        encoding="utf-8",
    )
    (folder / "callers.toml").chmod(0o600)
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOT_OVERRIDE, sys.executable, "-m", "zoomgate_server", command],
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
        pytest.skip("root cannot drop its capabilities here")
    return result


@pytest.mark.parametrize(
    ("file", "folder", "remedy"),
    [
        (
            0o400,
            0o700,
            "data/zoomgate.db cannot be written; check the owner and permissions of the file and its directory",
        ),
        (
            0o600,
            0o500,
            "data/zoomgate.db cannot be written; check the owner and permissions of the file and its directory",
        ),
        (
            0o000,
            0o700,
            "data/zoomgate.db cannot be written; check the owner and permissions of the file and its directory",
        ),
        (None, 0o500, "data/zoomgate.db cannot be created (Permission denied)"),
        (
            0o600,
            0o600,
            "cannot create or use data (Permission denied); check its owner and permissions",
        ),
    ],
)
async def test_start_fails_if_the_file_is_not_writable(
    tmp_path: Path, file: int | None, folder: int, remedy: str
) -> None:
    """`serve` and `doctor` report a read-only file or directory and change nothing."""
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
    started, checked = zoomgate(tmp_path, "serve"), zoomgate(tmp_path, "doctor")
    (tmp_path / "data").chmod(0o700)
    assert (started.returncode, started.stdout, started.stderr.count("\n")) == (1, "", 1), started.stderr
    assert remedy in started.stderr
    assert checked.returncode == 1
    failed = [line for line in checked.stdout.splitlines() if line.startswith("FAIL") and "Zoom" not in line]
    assert failed
    assert all("check " in line or "make the service's user its owner" in line for line in failed), failed
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    if file is not None:
        store.chmod(0o600)
        assert store.read_bytes() == before


def test_commands_are_subject_to_file_modes(tmp_path: Path) -> None:
    """A program run by the script cannot write to a read-only file, even as root."""
    (tmp_path / "x").touch(0o400)
    code = f"import os; print(os.access({str(tmp_path / 'x')!r}, os.W_OK))"
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOT_OVERRIDE, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 77 or result.stdout == "False\n"


@pytest.fixture
def guarded(tmp_path: Path) -> OwnServer:
    """Yield a MongoDB-compatible server with a user `writer`, who has write privileges, and a user `reader`, who has not."""
    server = OwnServer(tmp_path)
    server.start()
    with MongoClient(server.uri) as client:
        for user, role in (("writer", "readWrite"), ("reader", "read")):
            roles = [{"role": role, "db": "zoomgate"}]
            client["zoomgate"].command("createUser", user, pwd=PASSWORD, roles=roles)
        client["admin"].command("createUser", "root", pwd=PASSWORD, roles=["root"])
    server.close()
    return OwnServer(tmp_path, "--auth")


async def test_database_user_without_write_privileges(tmp_path: Path, guarded: OwnServer) -> None:
    """Without write privileges, a start fails. If they are revoked later, only calls that write fail, until they are granted again.

    The test server checks privileges when a connection is opened, so the test closes connections. MongoDB checks privileges per operation.
    """
    await asyncio.to_thread(guarded.start)
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    try:
        async with tcp_proxy(guarded.address) as proxy:
            host = f"127.0.0.1:{proxy.port}/zoomgate?directConnection=true"
            for user, password, reason in (
                (
                    "reader",
                    PASSWORD,
                    "does not grant its user the required privileges; grant the readWrite role on that database",
                ),
                ("writer", "wrong", "rejects the username and password"),
            ):
                rejected = environ | {"ZOOMGATE_STORE": f"mongodb://{user}:{password}@{host}"}
                with pytest.raises(StartError, match=reason) as error:
                    async with running(tmp_path / "data", environ=rejected):
                        pass
                assert PASSWORD not in str(error.value)
            accepted = environ | {"ZOOMGATE_STORE": f"mongodb://writer:{PASSWORD}@{host}"}
            async with running(tmp_path / "data", environ=accepted) as zoomgate:
                await zoomgate.connect()
                first = await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
                refresh = auth.RefreshTokenRequest(user_email=MONICA)
                with MongoClient(f"mongodb://root:{PASSWORD}@127.0.0.1:{guarded.address[1]}/admin") as admin:

                    def grant(role: str) -> None:
                        roles = [{"role": role, "db": "zoomgate"}]
                        admin["zoomgate"].command("updateUser", "writer", roles=roles)

                    for role, writable in (("read", False), ("readWrite", True)):
                        await asyncio.to_thread(grant, role)
                        proxy.set_mode(Mode.CUT)
                        assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)).short == STORE
                        proxy.set_mode(Mode.FORWARD)
                        while not await is_readable(zoomgate):
                            await asyncio.sleep(0.01)
                        if not writable:
                            refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)
                            assert refusal.short == STORE
                            begin = auth.BeginAuthorizationRequest(user_email=OMAR)
                            refusal = await zoomgate.error_of(zoomgate.auth.BeginAuthorization, begin)
                            assert refusal.short == STORE
                            cached = await zoomgate.call(
                                zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA)
                            )
                            assert cached.token.access_token == first.token.access_token
                            assert zoomgate.stat("token.refresh_token.issued") == 0
                response = await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
                assert response.token.generation == 2
    finally:
        await asyncio.to_thread(guarded.close)


async def is_readable(zoomgate: Harness) -> bool:
    """Return whether the service can read the store."""
    request = auth.GetConnectionRequest(user_email=MONICA)
    try:
        await zoomgate.call(zoomgate.auth.GetConnection, request)
    except grpc.aio.AioRpcError:
        return False
    return True
