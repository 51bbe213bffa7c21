"""Tests for the rules that Zoom's documentation leaves open, each under every setting."""

import asyncio
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from support.zoom_app import Client, Clock
from zoom_simulator import RefreshTokenReuse, Revocation, Rules, Simulator, SimulatorOptions

OMAR = "omar@example.com"
REVOKED = (200, {"status": "success"})


@pytest.fixture
def rules(request: pytest.FixtureRequest) -> Rules:
    parameter: Rules = request.param
    return parameter


@pytest.fixture
async def client(rules: Rules, clock: Clock) -> AsyncIterator[Client]:
    async with (
        Simulator(SimulatorOptions(port=0, rules=rules), wall=clock) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield Client(simulator, session)


async def accepts_access(client: Client, tokens: dict[str, Any]) -> bool:
    client.access = tokens["access_token"]
    return (await client.api("GET", "/users/me"))[0] == 200


async def accepts_refresh(client: Client, tokens: dict[str, Any]) -> bool:
    """Return whether the simulator accepts a refresh token. An accepted token is used."""
    return (await client.refresh(tokens["refresh_token"]))[0] == 200


@pytest.mark.parametrize(
    "rules", [Rules(refresh_token_reuse=reuse) for reuse in RefreshTokenReuse], indirect=True
)
async def test_reuse_of_the_latest_used_refresh_token(client: Client, rules: Rules) -> None:
    """It is rejected, is accepted once, or ends the grant."""
    first = await client.consent()
    _, second = await client.refresh(first["refresh_token"])
    tolerated = rules.refresh_token_reuse is RefreshTokenReuse.TOLERATED
    ends_grant = rules.refresh_token_reuse is RefreshTokenReuse.ENDS_GRANT
    assert await accepts_refresh(client, first) is tolerated
    assert await accepts_refresh(client, first) is False
    if not tolerated:
        assert await accepts_access(client, second) is not ends_grant
    assert await accepts_refresh(client, second) is not ends_grant


@pytest.mark.parametrize(
    "rules", [Rules(refresh_token_reuse=reuse) for reuse in RefreshTokenReuse], indirect=True
)
async def test_refresh_token_used_before_the_latest_is_never_tolerated(client: Client, rules: Rules) -> None:
    first = await client.consent()
    _, second = await client.refresh(first["refresh_token"])
    _, third = await client.refresh(second["refresh_token"])
    assert await accepts_refresh(client, first) is False
    ends_grant = rules.refresh_token_reuse is RefreshTokenReuse.ENDS_GRANT
    assert await accepts_refresh(client, third) is not ends_grant


@pytest.mark.parametrize("rules", [Rules(), Rules(overlapping_access_tokens=True)], indirect=True)
async def test_access_token_after_a_refresh(client: Client, rules: Rules, clock: Clock) -> None:
    """The previous access token is invalid at once, or remains valid until it expires."""
    first = await client.consent()
    clock.now += 60
    _, second = await client.refresh(first["refresh_token"])
    assert await accepts_access(client, first) is rules.overlapping_access_tokens
    assert await accepts_access(client, second)
    clock.now += 3599 - 60
    assert await accepts_access(client, first) is rules.overlapping_access_tokens
    clock.now += 1
    assert not await accepts_access(client, first)
    assert await accepts_access(client, second)


@pytest.mark.parametrize("rules", [Rules(), Rules(concurrent_grants=True)], indirect=True)
async def test_earlier_grant_after_a_new_consent(client: Client, rules: Rules) -> None:
    """The earlier grant ends, or remains valid."""
    first, second = await client.consent(), await client.consent()
    assert await accepts_access(client, first) is rules.concurrent_grants
    status, response = await client.refresh(first["refresh_token"])
    assert status == (200 if rules.concurrent_grants else 400)
    assert response.get("code") == (None if rules.concurrent_grants else 4741)
    assert await accepts_access(client, second)
    assert await accepts_refresh(client, second)


@pytest.mark.parametrize("rules", [Rules(concurrent_grants=True)], indirect=True)
async def test_removal_of_the_app_ends_all_grants_of_the_user(client: Client, rules: Rules) -> None:
    grants = [await client.consent(), await client.consent()]
    other = await client.consent(user=OMAR)
    await client.sim("event", event="app_deauthorized", user="monica@example.com")
    assert [await accepts_refresh(client, tokens) for tokens in grants] == [False, False]
    assert await accepts_refresh(client, other)


@pytest.mark.parametrize(
    "rules",
    [Rules(concurrent_grants=True, revocation=revocation) for revocation in Revocation],
    indirect=True,
)
@pytest.mark.parametrize("revoked", ["access_token", "refresh_token"])
async def test_extent_of_a_revocation(client: Client, rules: Rules, revoked: str) -> None:
    """A revocation ends the access token, its grant, or all grants of the user, and never another user's grant."""
    first, second = await client.consent(), await client.consent()
    other = await client.consent(user=OMAR)
    assert await client.revoke(first[revoked]) == REVOKED
    token_only = rules.revocation is Revocation.TOKEN and revoked == "access_token"
    assert not await accepts_access(client, first)
    assert await accepts_refresh(client, first) is token_only
    ends_user = rules.revocation is Revocation.USER
    assert await accepts_access(client, second) is not ends_user
    assert await accepts_refresh(client, second) is not ends_user
    assert await accepts_refresh(client, other)


@pytest.mark.parametrize("rules", [Rules(revocation=revocation) for revocation in Revocation], indirect=True)
@pytest.mark.parametrize("revoked", ["access_token", "refresh_token"])
async def test_revocation_of_a_token_of_an_earlier_consent(
    client: Client, rules: Rules, revoked: str
) -> None:
    """The token is already invalid. Only a revocation per user ends the user's current grant."""
    first, second = await client.consent(), await client.consent()
    assert await client.revoke(first[revoked]) == REVOKED
    assert await accepts_access(client, second) is (rules.revocation is not Revocation.USER)
    assert await accepts_refresh(client, second) is (rules.revocation is not Revocation.USER)


@pytest.mark.parametrize("rules", [Rules(revocation=revocation) for revocation in Revocation], indirect=True)
async def test_revocation_of_a_replaced_access_token(client: Client, rules: Rules) -> None:
    """The token is already invalid, but its grant ends unless a revocation ends single tokens."""
    first = await client.consent()
    _, second = await client.refresh(first["refresh_token"])
    assert await client.revoke(first["access_token"]) == REVOKED
    assert await accepts_refresh(client, second) is (rules.revocation is Revocation.TOKEN)


async def test_command_line_sets_all_rules() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zoom_simulator", "--listen", "127.0.0.1:0"),
        *("--refresh-token-reuse", "ends", "--overlapping-access-tokens", "--concurrent-grants"),
        *("--revocation", "user"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().rpartition("http=")[2].strip()
        url = f"http://{address}"
        remote: Any = SimpleNamespace(url=url, oauth_url=f"{url}/oauth", api_url=f"{url}/v2")
        async with aiohttp.ClientSession() as session:
            client = Client(remote, session)
            first, other = await client.consent(), await client.consent()
            _, second = await client.refresh(first["refresh_token"])  # the grants are concurrent
            assert await accepts_access(client, first)  # access tokens overlap
            assert not await accepts_refresh(client, first)
            assert not await accepts_refresh(client, second)  # the reuse ended the grant
            assert await accepts_access(client, other)
            await client.revoke((await client.consent())["access_token"])
            assert not await accepts_access(client, other)  # the revocation ended all grants
    finally:
        process.terminate()
        await process.wait()
