"""Tests for the resolver's rejection of internal addresses."""

import pytest

from zoomgate_server.zoom.resolver import PublicResolver, is_loopback_host, is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("170.114.10.1", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("192.168.1.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("224.0.0.1", False),
    ],
)
def test_only_global_unicast_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_name_with_an_internal_address_is_rejected() -> None:
    """Resolution of a name with a loopback address fails, so no connection is made."""
    resolver = PublicResolver()
    with pytest.raises(OSError, match="not public"):
        await resolver.resolve("localhost", 443)
    await resolver.close()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("127.9.9.9", True),
        ("api.zoom.us", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_is_recognized_by_name(host: str, loopback: bool) -> None:
    """The check is disabled only if the configured host itself is a loopback name or address."""
    assert is_loopback_host(host) is loopback
