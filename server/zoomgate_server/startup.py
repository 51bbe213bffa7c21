"""The result of starting the service: its addresses, or an error."""

from dataclasses import dataclass


class StartError(Exception):
    """The service cannot start. The message has one sentence per line, for the operator; nothing on disk was changed."""


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    """The addresses of the service, as HOST:PORT."""

    grpc: str
    http: str
