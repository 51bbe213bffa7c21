"""Tests for the token cache, which never replaces a newer version with an older version, regardless of the order of reads."""

from zoomgate_server.connections.token_cache import CachedToken, ConnectionVersion, TokenCache
from zoomgate_server.connections.token_pair import TokenPair

USER = "monica@example.com"


def token(generation: int, grant: str = "g", consent_time: float = 1.0, rev: int = 1) -> CachedToken:
    pair = TokenPair(f"a{generation}", f"r{generation}", "bearer", "s", "", 3600.0, 0.0)
    return CachedToken(pair, ConnectionVersion(grant, generation, consent_time), rev, None, 3600.0)


def test_older_token_does_not_replace_a_newer_one() -> None:
    cache, newest = TokenCache(), token(5)
    assert cache.put(USER, newest) is newest
    assert cache.put(USER, token(4)) is newest
    assert cache.get(USER) is newest


def test_older_token_is_not_cached_after_the_newer_one_was_dropped_or_evicted() -> None:
    """A token of the same or a newer generation is cached."""
    cache = TokenCache(capacity=1)
    cache.put(USER, token(5))
    cache.drop(USER)
    assert cache.get(USER) is None
    assert cache.put(USER, token(4)) is None
    assert cache.get(USER) is None
    assert cache.put(USER, token(5)) is not None
    cache.put("omar@example.com", token(1))
    assert cache.get(USER) is None
    assert cache.put(USER, token(4)) is None
    assert cache.put(USER, token(6)) is not None


def test_later_consent_with_a_lower_generation_is_cached() -> None:
    """After a store has lost a connection, its generations start from one again. A token of an earlier consent is not cached."""
    cache = TokenCache()
    cache.put(USER, token(5, "g2", 20.0))
    assert cache.put(USER, token(4, "g1", 10.0)) is cache.get(USER)
    later = token(1, "g3", 30.0)
    assert cache.put(USER, later) is later


def test_capacity_limits_tokens_and_other_seen_versions() -> None:
    cache = TokenCache(capacity=2)
    users = [f"user-{number}@example.com" for number in range(5)]
    for user in users:
        cache.put(user, token(5))
    assert [cache.get(user) is not None for user in users] == [False, False, False, True, True]
    assert [cache.seen(user) is not None for user in users] == [False, True, True, True, True]


def test_drop_keeps_a_token_of_the_excepted_revision() -> None:
    """The change event of the write that stored the token does not drop the token."""
    cache = TokenCache()
    cache.put(USER, token(5, rev=7))
    cache.drop(USER, unless_rev=7)
    assert cache.get(USER) is not None
    cache.drop(USER, unless_rev=8)
    assert cache.get(USER) is None


def test_use_is_recorded_per_pair() -> None:
    """A token is in use after a call has used it, unless it was returned to a caller. A new token pair or a drop resets the use."""
    cache = TokenCache()
    cache.put(USER, token(1))
    assert cache.in_use() == []
    cache.note_use(USER)
    assert cache.in_use() == [(USER, token(1))]
    cache.note_issued(USER)
    assert cache.in_use() == []
    cache.drop(USER)
    cache.put(USER, token(1))
    cache.note_use(USER)
    assert cache.in_use() == [], "the caller still has the token"
    cache.put(USER, token(2))
    assert cache.in_use() == []
    cache.note_use(USER)
    assert cache.in_use() == [(USER, token(2))]
    cache.drop(USER)
    assert cache.in_use() == []


def test_eviction_also_removes_recorded_use() -> None:
    cache = TokenCache(capacity=2)
    for number in range(10):
        user = f"user{number}@example.com"
        cache.put(user, token(1))
        cache.note_use(user)
        cache.note_issued(user)
    assert len(cache._used) == 2
    assert len(cache._issued_to_callers) == 4
