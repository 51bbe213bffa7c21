"""The addresses on which the simulator may listen."""

import ipaddress
import re
from typing import NamedTuple


class LoopbackAddress(NamedTuple):
    """An address of the local machine. Other addresses are not allowed, since the simulator has no TLS and its secrets are public."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "LoopbackAddress":
        """Parse HOST:PORT; IPv6 addresses must be in brackets.

        Raises:
            ValueError: The text is not HOST:PORT with a loopback address.
        """
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > 65_535:
            raise ValueError("not HOST:PORT")
        host = match[1] or match[2]
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise ValueError("not a loopback address")
        return cls(host, int(match[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
