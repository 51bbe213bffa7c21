"""Name resolution that rejects addresses in internal networks."""

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver


class PublicResolver(AbstractResolver):
    """A system resolver that rejects non-public addresses.

    Without this check, an attacker who controls the DNS of a public name could direct a user's token to an internal address.
    """

    def __init__(self) -> None:
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name.

        Raises:
            OSError: The name does not resolve, or one of its addresses is not public.
        """
        results = await self._system.resolve(host, port, family)
        for result in results:
            if not is_public(result["host"]):
                raise OSError(None, "the name resolves to an address that is not public")
        return results

    async def close(self) -> None:
        """Close the resolver."""
        await self._system.close()


def is_public(address: str) -> bool:
    """Return whether an IP address is public; an IPv4-mapped address is treated as its IPv4 address."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not (mapped or ip).is_multicast


def is_loopback_host(host: str) -> bool:
    """Return whether a configured host is `localhost` or a loopback address, without resolving it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
