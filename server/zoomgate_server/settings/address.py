"""Addresses to listen on."""

import ipaddress
import re
import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse HOST:PORT; IPv6 addresses must be in brackets.

        Raises:
            ValueError: `text` is not HOST:PORT.
        """
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not _is_host(host):
            raise ValueError("not HOST:PORT")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the address is reachable only from the local machine."""
        try:
            hosts = {str(row[4][0]) for row in socket.getaddrinfo(self.host, None)} if self.host else set()
            return bool(hosts) and all(ipaddress.ip_address(host).is_loopback for host in hosts)
        except (OSError, ValueError):
            return False


def _is_host(text: str) -> bool:
    """Return whether a string is empty or a valid host. A URL is not a valid host, even if it ends with a port."""
    if ":" not in text:
        return text.isprintable() and not re.search(r"[\s/?#@\\\[\]]", text)
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
