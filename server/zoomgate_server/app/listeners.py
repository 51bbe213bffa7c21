"""Listening sockets, which only processes of the same service share.

A single process binds its ports without SO_REUSEPORT. With several workers, each port is reserved by a socket that is bound but never
listens. While a port is reserved, only sockets of the same user with SO_REUSEPORT can be bound to it, even if no worker is running.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

from zoomgate_server.settings import Settings
from zoomgate_server.settings.address import Address
from zoomgate_server.startup import StartError

_WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - recognized, not bound
_Host = tuple[socket.AddressFamily, str]


def listen(settings: Settings, *, shared: bool = False) -> socket.socket:
    """Return a listening socket for HTTP. If it is shared, other processes of this service can listen on the same port.

    Raises:
        StartError: The port cannot be bound.
    """
    address = settings.http_listen
    try:
        ((family, host),) = _http_hosts(address)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, address.port))
            listener.listen(128)  # until listen() is called, a different process could also bind the port
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _cannot_listen(settings.names["http_listen"], address, error) from None
    return listener


@contextlib.contextmanager
def reserved(settings: Settings) -> Iterator[tuple[Address, Address]]:
    """Reserve both ports for the processes of this service; yield the addresses with the actual ports.

    Raises:
        StartError: A port is in use, even with SO_REUSEPORT, or the system does not support shared ports.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartError(
            f"{settings.names['workers']}: this system cannot share ports between processes; set it to 1"
        )
    grpc, http = settings.listen, settings.http_listen
    with contextlib.ExitStack() as stack:
        grpc_port = _reserve(settings.names["listen"], grpc, _grpc_hosts, stack)
        http_port = _reserve(settings.names["http_listen"], http, _http_hosts, stack)
        yield Address(grpc.host, grpc_port), Address(http.host, http_port)


def _reserve(
    name: str, address: Address, hosts: Callable[[Address], Sequence[_Host]], stack: contextlib.ExitStack
) -> int:
    """Reserve a port at every address of a host name, and return the port."""
    port = address.port
    try:
        for family, host in hosts(address):
            holder = stack.enter_context(_holder(family, host, port))
            port = holder.getsockname()[1]
    except OSError as error:
        raise _cannot_listen(name, address, error) from None
    return port


def _holder(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Return a socket that is bound with SO_REUSEPORT to a port on which no process listens."""
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # bind without SO_REUSEPORT, so that binding fails even if the process that uses the port allows sharing
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            for reusing in (probe, holder):
                reusing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # SO_REUSEADDR is required while closed connections of a previous service are in TIME_WAIT; the option is reset below,
            # because it would also admit other sockets with SO_REUSEADDR
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # bind while the probe still holds the port, so that no other process can bind the port in between
            holder.bind((host, probe.getsockname()[1]))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        holder.close()
        raise
    return holder


def _grpc_hosts(address: Address) -> Sequence[_Host]:
    """Return the addresses that gRPC listens on: all addresses of a host name; for a wildcard, `::`, or `0.0.0.0` without IPv6."""
    if address.host in _WILDCARDS:
        return [(socket.AF_INET6, "::")] if _has_ipv6() else [(socket.AF_INET, "0.0.0.0")]  # noqa: S104 - as configured
    resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    hosts = list(dict.fromkeys((family, str(sockaddr[0])) for family, _, _, _, sockaddr in resolved))
    return [row for row in hosts if row[0] is not socket.AF_INET6 or _has_ipv6()] or hosts


def _http_hosts(address: Address) -> Sequence[_Host]:
    """Return the address that the HTTP server listens on: for a host name, the first address."""
    family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
    return [(family, address.host)]


def _has_ipv6() -> bool:
    """Return whether the local machine supports IPv6. Host names may resolve to IPv6 addresses even without IPv6 support."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _cannot_listen(name: str, address: Address, error: OSError) -> StartError:
    return StartError(f"{name}: cannot listen on {address} ({error.strerror}); choose a different port")
