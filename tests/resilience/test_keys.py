"""A key file that becomes a stranger's under a running service."""

import asyncio
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from resilience.place import Place
from support.harness import MONICA, OMAR, running, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.encryption import key_file, reloading_key_ring


async def test_a_strangers_key_file_is_not_taken_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was mounted by mistake changes nothing: everybody is served, and what is written opens with the right file."""
    monkeypatch.setattr(reloading_key_ring, "POLL_INTERVAL", 0.01)
    path = Path(place.environ["ZOOMGATE_KEYS"])
    right = path.read_bytes()
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        path.unlink()
        with capture_logs() as lines:
            key_file.create(path)
            while "key_ring.reload_failed" not in [
                line["event"] for line in lines
            ]:  # nobody has to call for that
                await asyncio.sleep(0.01)
        await zoomgate.connect(OMAR)
        await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
        path.write_bytes(right)
    async with running(place.folder, environ=place.environ) as zoomgate:
        for user in (MONICA, OMAR):
            await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=user))


async def test_a_service_without_the_key_that_seals_elsewhere(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two with different rings, the one that lacks a key says so, spends and changes nothing, and goes on once it has it."""
    monkeypatch.setattr(reloading_key_ring, "POLL_INTERVAL", 0.01)
    path, peers = Path(place.environ["ZOOMGATE_KEYS"]), tmp_path / "peer.json"
    shutil.copy(path, peers)
    wanted = auth.RefreshTokenRequest(user_email=MONICA)
    async with running(place.folder, environ=place.environ) as first:
        await first.connect()
        peer_settings = place.elsewhere() | {"ZOOMGATE_KEYS": str(peers)}
        async with serving(first.simulator, tmp_path / "other", peer_settings) as peer:
            with capture_logs() as lines:
                added = key_file.add(path, key_file.load(path))
                key_file.promote(path, key_file.load(path), added)
                while added not in [line.get("primary") for line in lines]:
                    await asyncio.sleep(0.01)
            await first.call(first.auth.RefreshToken, wanted)
            before, spent = await place.record(MONICA), first.stat("token.refresh_token.issued")
            for method, request in (
                (peer.auth.RefreshToken, wanted),
                (peer.auth.GetToken, auth.GetTokenRequest(user_email=MONICA)),
                (peer.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA)),
            ):
                refusal = await peer.refusal(method, request)
                assert refusal.short == ("INTERNAL", "KEY_UNAVAILABLE")
                assert refusal.metadata["key_id"] == added
            assert await place.record(MONICA) == before
            assert first.stat("token.refresh_token.issued") == spent
            shutil.copy(path, tmp_path / "new.json")
            (tmp_path / "new.json").replace(peers)
            await peer.call(peer.auth.RefreshToken, wanted)
            await first.call(first.auth.RefreshToken, wanted)
