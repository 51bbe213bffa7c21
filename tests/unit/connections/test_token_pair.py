"""Tests for token pairs."""

from zoomgate_server.connections.token_pair import TokenPair


def test_pairs_with_the_same_scopes_share_one_string() -> None:
    """The scopes of an app may be longer than a token, and are cached for every user."""
    first, second = (
        TokenPair("a", "r", " ".join(["meeting:read:meeting"] * 30), access_expire_at=1.0, obtained_at=0.0)
        for _ in range(2)
    )
    assert first.scope is second.scope
