"""gRPC over TLS: who gets in, and how a certificate is replaced."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio
import pytest

from support.certificates import replace_file, write_pair
from support.harness import MONICA, Harness, key_of, running
from zoomgate import AsyncClient, Client, errors
from zoomgate_server.rpc import tls
from zoomgate_server.startup import StartError


def environ(cert: Path, key: Path) -> dict[str, str]:
    return {"ZOOMGATE_TLS_CERT": str(cert), "ZOOMGATE_TLS_KEY": str(key)}


async def shown(harness: Harness) -> bytes:
    """The certificate that a new connection is shown."""
    host, _, port = harness.grpc_address.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return pem.encode()


async def test_a_key_travels_encrypted(tmp_path: Path) -> None:
    """Who trusts the certificate gets in; who does not, or speaks plaintext, does not."""
    cert, key, pem = write_pair(tmp_path)
    async with running(tmp_path / "data", environ=environ(cert, key)) as harness:
        async with AsyncClient(harness.grpc_address, key=key_of("service"), root_certificates=pem) as client:
            with pytest.raises(errors.NotConnected):
                await client.auth.get_token(user_email=MONICA)
        with (
            Client(harness.grpc_address, key=key_of("service"), root_certificates=pem) as blocking,
            pytest.raises(errors.NotConnected),
        ):
            await asyncio.to_thread(blocking.auth.get_token, user_email=MONICA)
        other = write_pair(tmp_path / "data")[2]
        for wrong in ({"root_certificates": other}, {"tls": True}, {"tls": False}):
            async with AsyncClient(harness.grpc_address, key=key_of("service"), **wrong) as stranger:
                with pytest.raises(errors.ServiceUnavailable):
                    await stranger.auth.check_token(user_email=MONICA, timeout=5)


async def test_a_certificate_is_replaced_without_a_restart(tmp_path: Path) -> None:
    """New connections see the new pair; half of a pair, or an expired one, leaves the old in place."""
    cert, key, first = write_pair(tmp_path)
    async with running(tmp_path / "data", environ=environ(cert, key)) as harness:
        assert (await shown(harness)).split() == first.split()
        second = write_pair(tmp_path)[2]
        assert (await shown(harness)).split() == second.split()
        (tmp_path / "other").mkdir()
        other = write_pair(tmp_path / "other")
        replace_file(cert, other[2])
        assert (await shown(harness)).split() == second.split()
        replace_file(key, other[1].read_bytes())
        assert (await shown(harness)).split() == other[2].split()
        write_pair(tmp_path, ends=0)
        assert (await shown(harness)).split() == other[2].split()
        cert.unlink()
        assert (await shown(harness)).split() == other[2].split()


async def test_a_connection_outlives_its_certificate(tmp_path: Path) -> None:
    """Replacing the pair disturbs nobody who is connected."""
    cert, key, pem = write_pair(tmp_path)
    async with (
        running(tmp_path / "data", environ=environ(cert, key)) as harness,
        AsyncClient(harness.grpc_address, key=key_of("service"), root_certificates=pem) as client,
    ):
        for _ in range(2):
            with pytest.raises(errors.NotConnected):
                await client.auth.get_token(user_email=MONICA)
            write_pair(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "text"),
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
    ],
)
async def test_a_pair_that_cannot_be_used_does_not_start(tmp_path: Path, spoil: object, text: str) -> None:
    """The sentence names the setting and what to do, and quotes nothing of the key; nothing is written."""
    cert, key, _ = write_pair(tmp_path)
    spoil(cert, key)  # type: ignore[operator]
    with pytest.raises(StartError, match=text) as refused:
        async with running(tmp_path / "data", environ=environ(cert, key)):
            pass
    assert "canary" not in str(refused.value)
    assert not (tmp_path / "data").exists()


async def test_the_wrong_key_does_not_start(tmp_path: Path) -> None:
    """Certificate and key have to belong together."""
    cert, _, _ = write_pair(tmp_path)
    (tmp_path / "other").mkdir()
    _, other, _ = write_pair(tmp_path / "other")
    with pytest.raises(StartError, match="specify a matching certificate and key"):
        async with running(tmp_path / "data", environ=environ(cert, other)):
            pass


def test_a_pair_shows_no_key(tmp_path: Path) -> None:
    """Its representation has names and a date."""
    cert, key, _ = write_pair(tmp_path)
    pair = tls.load(cert, key)
    assert pair.names == ("localhost", "127.0.0.1")
    assert b"PRIVATE" in pair.key
    assert "PRIVATE" not in repr(pair)


def test_a_pair_that_becomes_usable_by_itself_is_taken(tmp_path: Path) -> None:
    """A certificate of tomorrow is refused with one line, left alone for a while, and taken tomorrow though its files stayed."""
    cert, key, first = write_pair(tmp_path)
    said: list[str | None] = []
    time = datetime.now(UTC)
    pair = tls.ReloadingCertificate(cert, key, said.append, now=lambda: time)
    second = write_pair(tmp_path, begins=1)[2]
    for _ in range(3):
        assert pair.changed() is None
        time += timedelta(seconds=tls.RETRY_SECONDS)
    assert pair.current.chain == first
    assert len(said) == 1
    time += timedelta(days=1)
    fresh = pair.changed()
    assert fresh is not None
    assert fresh.chain == second
    assert said[1:] == [None]
    assert pair.changed() is None


class Replaced(type(Path())):  # type: ignore[misc] - the class of paths on this platform
    """A path whose file goes away while it is read."""

    def open(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        """Open the file, and take its name away."""
        file = super().open(*arguments, **options)
        self.unlink()
        return file


def test_a_key_may_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    """The mode that counts is that of the file that was read, whatever the path leads to by then."""
    cert, key, _ = write_pair(tmp_path)
    assert tls.load(cert, Replaced(key)).names == ("localhost", "127.0.0.1")


async def test_silence_does_not_hold_others_up(tmp_path: Path) -> None:
    """Garbage and silent connections on the TLS port leave it open for everybody else."""
    cert, key, pem = write_pair(tmp_path)
    async with running(tmp_path / "data", environ=environ(cert, key)) as harness:
        host, _, port = harness.grpc_address.rpartition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
        for _, writer in opened[::2]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with grpc.aio.secure_channel(
            harness.grpc_address, grpc.ssl_channel_credentials(pem)
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
        for _, writer in opened:
            writer.close()
