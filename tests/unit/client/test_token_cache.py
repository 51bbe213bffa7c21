"""Tests for the limits and races of the token cache, on its own."""

import time

import pytest

from zoomgate._token_cache import MAX_TOKENS, MAX_USERS, TokenCache, _plain_user
from zoomgate.v1.auth_service_pb2 import GetTokenResponse, Token, WatchConnectionsResponse
from zoomgate.v1.connection_pb2 import Connection

MONICA = "monica@example.com"
SECRET = "canary-token"
SYNCED = WatchConnectionsResponse(type=WatchConnectionsResponse.TYPE_SYNCED)


def reported(
    user: str = MONICA,
    generation: int = 1,
    zoom_user_id: str = "z",
    state: Connection.State.ValueType = Connection.STATE_ACTIVE,
) -> WatchConnectionsResponse:
    """Return an event of the watch about a connection."""
    connection = Connection(user_email=user, generation=generation, zoom_user_id=zoom_user_id, state=state)
    return WatchConnectionsResponse(type=WatchConnectionsResponse.TYPE_UPDATED, connection=connection)


def token(generation: int = 1, expires_in: int = 3600) -> GetTokenResponse:
    """Return a response of the service."""
    return GetTokenResponse(token=Token(access_token=SECRET, generation=generation, expires_in=expires_in))


def call(cache: TokenCache, response: GetTokenResponse, user: str = MONICA) -> None:
    """Cache a response of the service."""
    cache.put(user, cache.version(user), time.monotonic(), response)


@pytest.fixture
def cache() -> TokenCache:
    """Return a cache whose watch has reported a user."""
    created = TokenCache()
    created.apply(reported())
    created.apply(SYNCED)
    return created


def test_token_of_the_reported_version_is_returned(cache: TokenCache) -> None:
    call(cache, token())
    cached = cache.get(MONICA)
    assert cached is not None
    assert cached.token.access_token == SECRET
    assert 0 < cached.token.expires_in <= 3600


@pytest.mark.parametrize("generation", [0, 2])
def test_token_of_a_different_generation_is_not_cached(cache: TokenCache, generation: int) -> None:
    """A replica that has not seen the latest change, or has seen a later one, may have returned the token."""
    call(cache, token(generation))
    assert cache.get(MONICA) is None


def test_token_of_a_user_who_was_not_reported_is_not_cached(cache: TokenCache) -> None:
    call(cache, token(), "omar@example.com")
    assert cache.get("omar@example.com") is None


@pytest.mark.parametrize(
    "change",
    [
        reported(generation=2),
        reported(zoom_user_id="other"),
        reported(state=Connection.STATE_DISCONNECTED),
        reported(state=Connection.STATE_REAUTH_REQUIRED),
    ],
)
def test_change_removes_the_token(cache: TokenCache, change: WatchConnectionsResponse) -> None:
    """The token stays removed if an earlier version is reported again."""
    call(cache, token())
    cache.apply(change)
    assert cache.get(MONICA) is None
    cache.apply(reported())
    assert cache.get(MONICA) is None


def test_repeated_event_keeps_the_token(cache: TokenCache) -> None:
    """A resumed watch may deliver an event twice."""
    call(cache, token())
    cache.apply(reported())
    assert cache.get(MONICA) is not None


def test_response_to_a_call_during_a_change_is_not_cached(cache: TokenCache) -> None:
    """A different Zoom user connects the address, with the same generation."""
    before = cache.version(MONICA)
    cache.apply(reported(zoom_user_id="other"))
    cache.put(MONICA, before, time.monotonic(), token())
    assert cache.get(MONICA) is None


def test_response_to_a_call_during_a_drop_is_not_cached(cache: TokenCache) -> None:
    """The client itself has refreshed the token or disconnected the user, which the watch has not reported yet."""
    before = cache.version(MONICA)
    cache.drop(MONICA)
    cache.apply(reported())
    cache.put(MONICA, before, time.monotonic(), token())
    assert cache.get(MONICA) is None
    call(cache, token())  # the refresh or disconnection has failed
    assert cache.get(MONICA) is not None


def test_address_that_the_service_rejects_has_no_cached_token() -> None:
    """The lower case of the Kelvin sign is an ASCII letter."""
    assert _plain_user(None, (), {"user_email": "Kim@example.com"}) == "kim@example.com"
    assert _plain_user(None, (), {"user_email": "\u212aim@example.com"}) == ""


@pytest.mark.parametrize(("expires_in", "is_cached"), [(59, False), (120, True)])
def test_token_is_returned_while_valid_for_a_minute(
    cache: TokenCache, expires_in: int, is_cached: bool
) -> None:
    call(cache, token(expires_in=expires_in))
    assert (cache.get(MONICA) is not None) is is_cached


def test_token_expires_while_the_machine_is_suspended() -> None:
    """The watch is alive again before the next read."""
    now = 1000.0
    cache = TokenCache(clock=lambda: now)
    cache.apply(reported())
    cache.put(MONICA, cache.version(MONICA), now, token())
    for seconds, is_cached in ((0, True), (3000, True), (3600, False)):
        now = 1000.0 + seconds
        assert cache.get(MONICA) is None or seconds == 0
        cache.apply(SYNCED)
        assert (cache.get(MONICA) is not None) is is_cached


def test_token_is_not_returned_while_changes_are_unreadable(cache: TokenCache) -> None:
    call(cache, token())
    cache.apply(WatchConnectionsResponse(type=WatchConnectionsResponse.TYPE_SYNCED, unreadable_count=1))
    assert cache.get(MONICA) is None
    cache.apply(SYNCED)
    assert cache.get(MONICA) is not None


def test_number_of_tokens_is_limited(cache: TokenCache) -> None:
    """The oldest token is evicted."""
    call(cache, token())
    for number in range(MAX_TOKENS):
        cache.apply(reported(f"{number}@example.com"))
        call(cache, token(), f"{number}@example.com")
    cache.apply(SYNCED)
    assert cache.get(MONICA) is None
    assert cache.get("0@example.com") is not None


def test_number_of_users_is_limited(cache: TokenCache) -> None:
    """Further users are not cached. A disconnection makes room for one."""
    for number in range(MAX_USERS):
        cache.apply(reported(f"{number}@example.com"))
    assert cache.version(f"{MAX_USERS - 1}@example.com") is None
    cache.apply(reported(state=Connection.STATE_DISCONNECTED))
    cache.apply(reported(f"{MAX_USERS - 1}@example.com"))
    assert cache.version(f"{MAX_USERS - 1}@example.com") is not None


def test_repr_contains_no_token(cache: TokenCache) -> None:
    call(cache, token())
    assert SECRET not in repr(cache) + repr(cache._tokens) + repr(vars(cache))
