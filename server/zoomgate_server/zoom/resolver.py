"""Name resolution that does not lead into our own network."""

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver


class PublicResolver(AbstractResolver):
    """Resolves names as the system does and refuses answers that are not public addresses.

    Whoever can answer for a public name with an inner address could otherwise make this service send a user's token there.
    """

    def __init__(self) -> None:
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name.

        Raises:
            OSError: There is no answer, or one of them is not public.
        """
        found = await self._system.resolve(host, port, family)
        for result in found:
            if not is_public(result["host"]):
                raise OSError(None, "the name resolves to an address that is not public")
        return found

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._system.close()


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public Internet's; mapped IPv4 addresses count as what they map to."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not (mapped or ip).is_multicast


def is_loopback_host(host: str) -> bool:
    """Tell whether a configured host is this machine by its very name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
