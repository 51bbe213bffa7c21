"""A key file that becomes a stranger's under a running service."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from harness import MONICA, OMAR, running
from store_faults.place import Place
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.tokens import keyfile, reloaded_ring


async def test_a_strangers_key_file_is_not_taken_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was mounted by mistake changes nothing: everybody is served, and what is written opens with the right file."""
    monkeypatch.setattr(reloaded_ring, "LOOK_SECONDS", 0.01)
    path = Path(place.environ["ZOOMGATE_KEYS"])
    right = path.read_bytes()
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        path.unlink()
        with capture_logs() as lines:
            keyfile.create(path)
            while "keys.not_reloaded" not in [line["event"] for line in lines]:  # nobody has to call for that
                await asyncio.sleep(0.01)
        await zoomgate.connect(OMAR)
        await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
        path.write_bytes(right)
    async with running(place.folder, environ=place.environ) as zoomgate:
        for user in (MONICA, OMAR):
            await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=user))
