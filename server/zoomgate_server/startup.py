"""What a start comes to: the service listens somewhere, or there is a reason why not."""

from dataclasses import dataclass


class StartError(Exception):
    """The service cannot start. The text is one sentence for the operator, or one a line; nothing was changed on disk."""


@dataclass(frozen=True, slots=True)
class Started:
    """Where the service listens, as HOST:PORT."""

    grpc: str
    http: str
