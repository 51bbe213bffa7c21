"""The timing of the record stores, apart from the stores so that the MongoDB drivers are imported only when used."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SqliteTiming:
    """The timing of an SQLite store, in seconds.

    Attributes:
        busy_timeout: Maximum time that a statement waits for the write lock of another process.
        queue_timeout: Maximum time that an operation waits for earlier operations. An operation that has not started by then fails.
    """

    busy_timeout: float = 5.0
    queue_timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class MongoTiming:
    """The timing of a MongoDB store, in seconds.

    Attributes:
        queue_timeout: Maximum time that an operation waits for a connection.
        selection_timeout: Maximum time that an operation waits for a primary before it fails.
        connect_timeout: Maximum time that a connection attempt takes.
        majority_timeout: Maximum time that a write waits for confirmation by a majority.
        socket_timeout: Maximum time that a response takes, longer than `majority_timeout`, so that the server's own response arrives first.
        operation_timeout: Maximum time that a caller waits in total, including retries by the driver. Afterwards, the operation continues
            in the background.
    """

    queue_timeout: float = 2.0
    selection_timeout: float = 3.0
    connect_timeout: float = 2.0
    majority_timeout: float = 5.0
    socket_timeout: float = 6.0
    operation_timeout: float = 8.0
