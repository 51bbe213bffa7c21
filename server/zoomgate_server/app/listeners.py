"""The ports that the service listens on: taken by nobody else when it starts, and shared by its own processes alone.

A process that serves alone takes its ports without SO_REUSEPORT. Where several share them, a socket that is bound and never listens
keeps each port: it lets in sockets of the same user with SO_REUSEPORT, and keeps out everybody else, also while no process is up.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

from zoomgate_server.settings import Address
from zoomgate_server.startup import StartError

_WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - recognized, not bound


def listen(address: Address, *, shared: bool = False) -> socket.socket:
    """Listen for HTTP.

    Args:
        address: Where; port 0 picks a free one.
        shared: Whether other processes of this service listen there, too.

    Raises:
        StartError: The port cannot be had.
    """
    try:
        family = _http_family(address)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((address.host, address.port))
            listener.listen(128)  # else another process could bind it as well, up to the moment it listens
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _cannot_listen("ZOOMGATE_HTTP_LISTEN", address, error) from None
    return listener


@contextlib.contextmanager
def reserved(grpc: Address, http: Address) -> Iterator[tuple[Address, Address]]:
    """Keep both ports for the processes of this service as long as the context lasts; gives the addresses with the ports found.

    Raises:
        StartError: A port is in use, also by somebody who would share it, or this system cannot share ports.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartError("ZOOMGATE_WORKERS: this system does not let processes share a port: set it to 1")
    with contextlib.ExitStack() as stack:
        grpc_port = _reserve("ZOOMGATE_LISTEN", grpc, _grpc_hosts, stack)
        http_port = _reserve(
            "ZOOMGATE_HTTP_LISTEN", http, lambda address: [(_http_family(address), address.host)], stack
        )
        yield Address(grpc.host, grpc_port), Address(http.host, http_port)


def _reserve(
    name: str,
    address: Address,
    hosts: Callable[[Address], Sequence[tuple[socket.AddressFamily, str]]],
    stack: contextlib.ExitStack,
) -> int:
    """Reserve a port at every address that a host name stands for, and give it."""
    port = address.port
    try:
        for family, host in hosts(address):
            keeper = stack.enter_context(_keeper(family, host, port))
            port = keeper.getsockname()[1]
    except OSError as error:
        raise _cannot_listen(name, address, error) from None
    return port


def _keeper(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Bind a socket with SO_REUSEPORT to a port that nobody listens on."""
    keeper = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # as a server that shares with nobody would: only that fails if somebody listens who would share
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            for each in (probe, keeper):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # for connections that a service of one process has ended a moment ago; said any longer it would let others in who say so
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind((host, probe.getsockname()[1]))  # before the probe lets go: nobody comes between
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        keeper.close()
        raise
    return keeper


def _grpc_hosts(address: Address) -> Sequence[tuple[socket.AddressFamily, str]]:
    """Name what gRPC listens on: all that a name stands for, and both families at once for every address of the machine."""
    if address.host in _WILDCARDS:
        return [(socket.AF_INET6, "::")] if _has_ipv6() else [(socket.AF_INET, "0.0.0.0")]  # noqa: S104 - as was set
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    hosts = list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))
    return [row for row in hosts if row[0] is not socket.AF_INET6 or _has_ipv6()] or hosts


def _http_family(address: Address) -> socket.AddressFamily:
    return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]


def _has_ipv6() -> bool:
    """Whether this machine has IPv6 addresses; names may stand for some all the same."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _cannot_listen(name: str, address: Address, error: OSError) -> StartError:
    return StartError(f"{name}: {address} cannot be listened on ({error.strerror}): choose another port")
