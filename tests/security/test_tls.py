"""Tests for gRPC over TLS and the replacement of certificates."""

import asyncio
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio
import pytest

from support.captured_logs import LogStream
from support.certificates import replace_file, write_pair
from support.harness import MONICA, Harness, caller_key, running
from zoomgate import AsyncClient, Client, errors
from zoomgate_server.rpc import tls
from zoomgate_server.startup import StartError

NAMES = {"tls_cert": "ZOOMGATE_TLS_CERT", "tls_key": "ZOOMGATE_TLS_KEY"}


def tls_settings(cert: Path, key: Path) -> dict[str, str]:
    return {"ZOOMGATE_TLS_CERT": str(cert), "ZOOMGATE_TLS_KEY": str(key)}


async def presented_certificate(harness: Harness) -> bytes:
    """Return the certificate that the server presents to a new connection."""
    host, _, port = harness.grpc_address.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return pem.encode()


async def test_client_must_trust_the_certificate(tmp_path: Path) -> None:
    """A client that does not trust the certificate or uses plaintext cannot connect."""
    cert, key, pem = write_pair(tmp_path)
    async with running(tmp_path / "data", environ=tls_settings(cert, key)) as harness:
        async with AsyncClient(
            harness.grpc_address, key=caller_key("service"), root_certificates=pem
        ) as client:
            with pytest.raises(errors.NotConnected):
                await client.auth.get_token(user_email=MONICA)
        with (
            Client(harness.grpc_address, key=caller_key("service"), root_certificates=pem) as blocking,
            pytest.raises(errors.NotConnected),
        ):
            await asyncio.to_thread(blocking.auth.get_token, user_email=MONICA)
        other = write_pair(tmp_path / "data")[2]
        for options in ({"root_certificates": other}, {"tls": True}, {"tls": False}):
            async with AsyncClient(
                harness.grpc_address, key=caller_key("service"), **options
            ) as untrusting_client:
                with pytest.raises(errors.ServiceUnavailable):
                    await untrusting_client.auth.check_token(user_email=MONICA, timeout=5)


async def test_certificate_is_replaced_without_a_restart(tmp_path: Path) -> None:
    """New connections use the new certificate and key. A key that does not match its certificate, or an expired certificate, is ignored."""
    cert, key, first = write_pair(tmp_path)
    async with running(tmp_path / "data", environ=tls_settings(cert, key)) as harness:
        assert (await presented_certificate(harness)).split() == first.split()
        second = write_pair(tmp_path)[2]
        assert (await presented_certificate(harness)).split() == second.split()
        (tmp_path / "other").mkdir()
        other = write_pair(tmp_path / "other")
        replace_file(cert, other[2])
        assert (await presented_certificate(harness)).split() == second.split()
        replace_file(key, other[1].read_bytes())
        assert (await presented_certificate(harness)).split() == other[2].split()
        write_pair(tmp_path, ends=0)
        assert (await presented_certificate(harness)).split() == other[2].split()
        cert.unlink()
        assert (await presented_certificate(harness)).split() == other[2].split()


async def test_certificate_is_reloaded_on_request(tmp_path: Path, log: LogStream) -> None:
    """An unusable certificate is reported at once, although no client connects, and a usable one is presented to the next client."""
    cert, key, _ = write_pair(tmp_path)
    reload, start = asyncio.Event(), len(log.getvalue())
    async with running(tmp_path / "data", environ=tls_settings(cert, key), reload=reload) as harness:
        write_pair(tmp_path, ends=0)
        reload.set()
        while "files.reload_failed" not in log.getvalue()[start:]:
            await asyncio.sleep(0)
        assert "ZOOMGATE_TLS_CERT: " in log.getvalue()[start:]
        pem = write_pair(tmp_path)[2]
        reload.set()
        while "files.reloaded" not in log.getvalue()[start:]:
            await asyncio.sleep(0)
        assert (await presented_certificate(harness)).split() == pem.split()


async def test_replacing_the_certificate_does_not_affect_open_connections(tmp_path: Path) -> None:
    cert, key, pem = write_pair(tmp_path)
    async with (
        running(tmp_path / "data", environ=tls_settings(cert, key)) as harness,
        AsyncClient(harness.grpc_address, key=caller_key("service"), root_certificates=pem) as client,
    ):
        for _ in range(2):
            with pytest.raises(errors.NotConnected):
                await client.auth.get_token(user_email=MONICA)
            write_pair(tmp_path)


@pytest.mark.parametrize(
    ("invalidate", "message"),
    [
        (lambda cert, _key: cert.unlink(), "ZOOMGATE_TLS_CERT: .* cannot be read"),
        (lambda _cert, key: key.unlink(), "ZOOMGATE_TLS_KEY: .* cannot be read"),
        (lambda cert, _key: cert.write_bytes(b"x"), "contains no PEM certificate"),
        (lambda _cert, key: key.write_bytes(b"canary-secret"), "contains no PEM private key"),
        (lambda _cert, key: key.chmod(0o604), "accessible to all users; run chmod"),
        (lambda cert, _key: write_pair(cert.parent, ends=0), "expired on"),
        (lambda cert, _key: write_pair(cert.parent, begins=1), "is not valid before"),
        (lambda cert, _key: write_pair(cert.parent, passphrase=b"canary"), "has a passphrase"),
        (lambda cert, _key: cert.write_bytes(b"x" * (tls.MAX_BYTES + 1)), "larger than"),
        (lambda cert, _key: (cert.unlink(), os.mkfifo(cert)), "ZOOMGATE_TLS_CERT: .*not a regular file"),
        (lambda _cert, key: (key.unlink(), os.mkfifo(key, 0o600)), "ZOOMGATE_TLS_KEY: .*not a regular file"),
    ],
)
async def test_server_does_not_start_with_an_unusable_pair(
    tmp_path: Path, invalidate: object, message: str
) -> None:
    """The error message does not contain the private key, and no data is written."""
    cert, key, _ = write_pair(tmp_path)
    invalidate(cert, key)  # type: ignore[operator]
    with pytest.raises(StartError, match=message) as exc_info:
        async with running(tmp_path / "data", environ=tls_settings(cert, key)):
            pass
    assert "canary" not in str(exc_info.value)
    assert not (tmp_path / "data").exists()


async def test_errors_name_the_settings_as_the_operator_knows_them(tmp_path: Path) -> None:
    cert, key, _ = write_pair(tmp_path)
    file = tmp_path / "zoomgate.toml"
    file.write_text(f'tls_cert = "{cert}"\ntls_key = "{key}"\naudit = "missing/audit.jsonl"\n')
    for path, name in (
        (None, f"audit ({file}:3)"),
        (key, f"tls_key ({file}:2)"),
        (cert, f"tls_cert ({file}:1)"),
    ):
        if path is not None:
            path.unlink()
        with pytest.raises(StartError) as error:
            async with running(tmp_path / "data", environ={"ZOOMGATE_CONFIG": str(file)}):
                pass
        assert str(error.value).startswith(f"{name}: ")


async def test_server_does_not_start_with_a_mismatched_key(tmp_path: Path) -> None:
    cert, _, _ = write_pair(tmp_path)
    (tmp_path / "other").mkdir()
    _, other, _ = write_pair(tmp_path / "other")
    with pytest.raises(StartError, match="specify a matching certificate and key"):
        async with running(tmp_path / "data", environ=tls_settings(cert, other)):
            pass


def test_representation_of_pair_does_not_contain_the_key(tmp_path: Path) -> None:
    cert, key, _ = write_pair(tmp_path)
    pair = tls.load(cert, key, NAMES)
    assert pair.names == ("localhost", "127.0.0.1")
    assert b"PRIVATE" in pair.key
    assert "PRIVATE" not in repr(pair)


def test_certificate_is_loaded_once_it_becomes_valid(tmp_path: Path) -> None:
    """A certificate that is not yet valid is reported once and loaded later, without a change to the files."""
    cert, key, first = write_pair(tmp_path)
    reports: list[str | None] = []
    time = datetime.now(UTC)
    pair = tls.ReloadingCertificate(cert, key, NAMES, reports.append, now=lambda: time)
    second = write_pair(tmp_path, begins=1)[2]
    for _ in range(3):
        assert pair.changed() is None
        time += timedelta(seconds=tls.RETRY_SECONDS)
    assert pair.current.chain == first
    assert len(reports) == 1
    time += timedelta(days=1)
    new_pair = pair.changed()
    assert new_pair is not None
    assert new_pair.chain == second
    assert reports[1:] == [None]
    assert pair.changed() is None


class DeletedWhileRead(type(Path())):  # type: ignore[misc] - the class of paths on this platform
    """A path whose file is deleted after it is opened and before it is read."""

    def open(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        """Open the file, then delete its directory entry."""
        file = super().open(*arguments, **options)
        self.unlink()
        return file


def test_key_may_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    """The permissions are read from the opened file, so the path may be deleted or refer to a different file meanwhile."""
    cert, key, _ = write_pair(tmp_path)
    assert tls.load(cert, DeletedWhileRead(key), NAMES).names == ("localhost", "127.0.0.1")


async def test_idle_connections_do_not_block_other_clients(tmp_path: Path) -> None:
    """Connections that send nothing or invalid data on the TLS port do not block the handshakes of other clients."""
    cert, key, pem = write_pair(tmp_path)
    async with running(tmp_path / "data", environ=tls_settings(cert, key)) as harness:
        host, _, port = harness.grpc_address.rpartition(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
        for _, writer in connections[::2]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with grpc.aio.secure_channel(
            harness.grpc_address, grpc.ssl_channel_credentials(pem)
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
        for _, writer in connections:
            writer.close()
