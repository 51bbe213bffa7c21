"""Names that lead into our own network are not followed."""

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
def test_public_addresses_are_told_from_inner_ones(address: str, public: bool) -> None:
    """Loopback, private, link-local, mapped and multicast addresses are not public."""
    assert is_public(address) is public


async def test_an_inner_answer_is_refused() -> None:
    """A name that resolves to this machine is an error of the look-up: nothing is connected."""
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
def test_loopback_is_told_by_the_name(host: str, loopback: bool) -> None:
    """Only a name that is this machine's switches the check off."""
    assert is_loopback_host(host) is loopback
