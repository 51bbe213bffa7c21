"""Tests for wrong and incomplete key files of running services."""

import asyncio
import shutil
from pathlib import Path

from resilience.place import Place
from support.captured_logs import capture_logs
from support.harness import MONICA, OMAR, running, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.app.timing import Timing
from zoomgate_server.encryption import key_file, reloading_key_ring

TIMING = Timing(key_ring=reloading_key_ring.Timing(poll_interval=0.01))


async def test_key_file_of_a_different_installation_is_ignored(place: Place) -> None:
    """While the key file is wrong, all users are served, and records written meanwhile can be decrypted with the correct key file."""
    path = Path(place.environ["ZOOMGATE_KEYS"])
    correct = path.read_bytes()
    async with running(place.folder, environ=place.environ, timing=TIMING) as zoomgate:
        await zoomgate.connect()
        path.unlink()
        with capture_logs() as lines:
            key_file.create(path)
            # The service checks the file even if it receives no calls.
            while "key_ring.reload_failed" not in [line["event"] for line in lines]:
                await asyncio.sleep(0.01)
        await zoomgate.connect(OMAR)
        await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
        path.write_bytes(correct)
    async with running(place.folder, environ=place.environ, timing=TIMING) as zoomgate:
        for user in (MONICA, OMAR):
            await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=user))


async def test_service_recovers_after_receiving_a_missing_primary_key(place: Place, tmp_path: Path) -> None:
    """Without the key, the service reports KEY_UNAVAILABLE, and does not refresh tokens or modify records."""
    path, peer_path = Path(place.environ["ZOOMGATE_KEYS"]), tmp_path / "peer.json"
    shutil.copy(path, peer_path)
    request = auth.RefreshTokenRequest(user_email=MONICA)
    async with running(place.folder, environ=place.environ, timing=TIMING) as first:
        await first.connect()
        peer_settings = place.elsewhere() | {"ZOOMGATE_KEYS": str(peer_path)}
        async with serving(first.simulator, tmp_path / "other", peer_settings, timing=TIMING) as peer:
            with capture_logs() as lines:
                added = key_file.add(path, key_file.load(path))
                key_file.promote(path, key_file.load(path), added)
                while added not in [line.get("primary") for line in lines]:
                    await asyncio.sleep(0.01)
            await first.call(first.auth.RefreshToken, request)
            before, issued = await place.record(MONICA), first.stat("token.refresh_token.issued")
            for method, peer_request in (
                (peer.auth.RefreshToken, request),
                (peer.auth.GetToken, auth.GetTokenRequest(user_email=MONICA)),
                (peer.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA)),
            ):
                refusal = await peer.error_of(method, peer_request)
                assert refusal.short == ("INTERNAL", "KEY_UNAVAILABLE")
                assert refusal.metadata["key_id"] == added
            assert await place.record(MONICA) == before
            assert first.stat("token.refresh_token.issued") == issued
            shutil.copy(path, tmp_path / "new.json")
            (tmp_path / "new.json").replace(peer_path)
            await peer.call(peer.auth.RefreshToken, request)
            await first.call(first.auth.RefreshToken, request)
