"""An HTTP client of the Zoom simulator, which acts as the app and its user."""

from typing import Any

import aiohttp

from zoom_simulator import Simulator

REDIRECT_URI = "http://127.0.0.1/back"
MONICA = "monica@example.com"


class Clock:
    """A manually controlled clock."""

    now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A client of the Zoom simulator that acts as the app and its user."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session
        self.access = ""

    async def token(self, secret: str = "zoomgate-dev-secret", **form: str) -> tuple[int, dict[str, Any]]:
        basic = aiohttp.encode_basic_auth("zoomgate-dev", secret)
        url = f"{self.simulator.oauth_url}/token"
        async with self.session.post(url, data=form, headers={"Authorization": basic}) as response:
            return response.status, await response.json()

    async def consent(self, **parameters: str) -> dict[str, Any]:
        body = {"user": MONICA, "redirect_uri": REDIRECT_URI, "state": "s"} | parameters
        async with self.session.post(f"{self.simulator.url}/_sim/authorize", json=body) as response:
            location = (await response.json())["location"]
        assert location.startswith(f"{REDIRECT_URI}?code=")
        assert location.endswith("&state=s")
        code = location.partition("code=")[2].partition("&")[0]
        status, issued = await self.token(
            grant_type="authorization_code", code=code, redirect_uri=REDIRECT_URI
        )
        assert status == 200, issued
        self.access = issued["access_token"]
        return issued

    async def refresh(self, token: str) -> tuple[int, dict[str, Any]]:
        return await self.token(grant_type="refresh_token", refresh_token=token)

    async def revoke(self, token: str) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": aiohttp.encode_basic_auth("zoomgate-dev", "zoomgate-dev-secret")}
        url = f"{self.simulator.oauth_url}/revoke"
        async with self.session.post(url, data={"token": token}, headers=headers) as response:
            return response.status, await response.json()

    async def api(self, method: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        url, headers = self.simulator.api_url + path, {"Authorization": f"Bearer {self.access}"}
        async with self.session.request(method, url, json=body or None, headers=headers) as response:
            return response.status, await response.json() if response.status != 204 else {}

    async def sim(self, path: str, **body: Any) -> dict[str, Any]:
        async with self.session.post(f"{self.simulator.url}/_sim/{path}", json=body) as response:
            result: dict[str, Any] = await response.json()
            return result
