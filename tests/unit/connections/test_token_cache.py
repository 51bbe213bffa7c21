"""What is in memory never goes back, whatever comes from the store and in whichever order."""

from zoomgate_server.connections.token_cache import CachedToken, Seen, TokenCache
from zoomgate_server.connections.token_pair import TokenPair

USER = "monica@example.com"


def token(generation: int, grant: str = "g", consent_time: float = 1.0, rev: int = 1) -> CachedToken:
    pair = TokenPair(f"a{generation}", f"r{generation}", "bearer", "s", "", 3600.0, 0.0)
    return CachedToken(pair, Seen(grant, generation, consent_time), rev, None, 3600.0)


def test_the_newest_counts() -> None:
    """Who comes late with an older token gets the newer one."""
    cache, newest = TokenCache(), token(5)
    assert cache.put(USER, newest) is newest
    assert cache.put(USER, token(4)) is newest
    assert cache.get(USER) is newest


def test_what_was_dropped_or_pushed_out_is_no_less_known() -> None:
    """An older token does not come back after the newer one is gone; one of the same generation or a newer one does."""
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


def test_a_later_consent_may_begin_again() -> None:
    """A store that lost the connection counts from one: the later consent is used, an earlier one is not."""
    cache = TokenCache()
    cache.put(USER, token(5, "g2", 20.0))
    assert cache.put(USER, token(4, "g1", 10.0)) is cache.get(USER)
    again = token(1, "g3", 30.0)
    assert cache.put(USER, again) is again


def test_memory_is_bounded() -> None:
    """So many tokens are kept, and of so many more users how far they had come."""
    cache = TokenCache(capacity=2)
    users = [f"user-{number}@example.com" for number in range(5)]
    for user in users:
        cache.put(user, token(5))
    assert [cache.get(user) is not None for user in users] == [False, False, False, True, True]
    assert [cache.seen(user) is not None for user in users] == [False, True, True, True, True]


def test_a_revision_that_is_the_tokens_own_drops_nothing() -> None:
    """Hearing of the write that the token came from changes nothing."""
    cache = TokenCache()
    cache.put(USER, token(5, rev=7))
    cache.drop(USER, unless_rev=7)
    assert cache.get(USER) is not None
    cache.drop(USER, unless_rev=8)
    assert cache.get(USER) is None


def test_what_is_in_use_is_known_per_pair() -> None:
    """A token is in use once a call used it and as long as nobody outside has it; the next pair begins anew, what was dropped is none."""
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
    assert cache.in_use() == [], "whoever has it has it still"
    cache.put(USER, token(2))
    assert cache.in_use() == []
    cache.note_use(USER)
    assert cache.in_use() == [(USER, token(2))]
    cache.drop(USER)
    assert cache.in_use() == []


def test_who_is_forgotten_is_forgotten_everywhere() -> None:
    """What is known of the use of tokens takes no more memory than the tokens themselves."""
    cache = TokenCache(capacity=2)
    for number in range(10):
        user = f"user{number}@example.com"
        cache.put(user, token(1))
        cache.note_use(user)
        cache.note_issued(user)
    assert len(cache._used) == 2
    assert len(cache._handed_out) == 4
