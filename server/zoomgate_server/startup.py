"""The result of starting the service: its addresses, or an error."""

from dataclasses import dataclass


class StartError(Exception):
    """The service cannot start, or a worker cannot be restarted. The message is for the operator and has one sentence per line."""


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    """The addresses of the service, as HOST:PORT."""

    grpc: str
    http: str
