"""How a channel to the service is set up: address, TLS, and which calls gRPC may repeat by itself."""

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from zoomgate.v1 import auth_service_pb2, meetings_service_pb2, proxy_service_pb2

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Answers of the proxy can be larger than gRPC's default of 4 MiB."""

KEEPALIVE_SECONDS = 330
"""Pause between questions whether the server is still there while a call waits; servers cut off who asks more often than every 300."""

RECONNECT_SECONDS = 5
"""Longest pause between two attempts to connect. gRPC's own grows to two minutes, in which a service that is back would seem gone."""

FAILURES_AT_ONCE = 50
"""So many calls may fail at once and be repeated: one of several servers that stops ends all that it has, and the others take them."""

SERVICES: tuple[ServiceDescriptor, ...] = (
    auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"],
    meetings_service_pb2.DESCRIPTOR.services_by_name["MeetingsService"],
    proxy_service_pb2.DESCRIPTOR.services_by_name["ProxyService"],
)

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_KEY = re.compile(r"[!-~]{1,4096}", re.ASCII)


def retry_safe(service: ServiceDescriptor) -> frozenset[str]:
    """Name the RPCs of a service that the contract declares free of side effects or idempotent."""
    return frozenset(
        method.name
        for method in service.methods
        if method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    )


def service_config() -> str:
    """Give the service config (https://github.com/grpc/grpc/blob/master/doc/service_config.md) as JSON.

    UNAVAILABLE is repeated up to 3 times, 0.1 to 1 second apart, for RPCs that the contract declares safe to repeat, and for no other.
    After `FAILURES_AT_ONCE` nothing is repeated until ten times as many calls have succeeded as failed.
    """
    safe = [
        {"service": service.full_name, "method": method}
        for service in SERVICES
        for method in sorted(retry_safe(service))
    ]
    return json.dumps(
        {
            "methodConfig": [{"name": safe, "retryPolicy": _RETRY_POLICY}],
            "retryThrottling": {"maxTokens": 2 * FAILURES_AT_ONCE, "tokenRatio": 0.1},
        }
    )


def options(target: str, given: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Give the options of a channel; those of the caller win."""
    ours: dict[str, Any] = {
        "grpc.service_config": service_config(),
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": KEEPALIVE_SECONDS * 1000,
        "grpc.max_reconnect_backoff_ms": RECONNECT_SECONDS * 1000,
    }
    if is_local(target):
        ours["grpc.enable_http_proxy"] = 0
    return list((ours | dict(given)).items())


def credentials(
    target: str, root_certificates: bytes | None, tls: bool | None
) -> grpc.ChannelCredentials | None:
    """Give the credentials of a channel, or None for plaintext.

    Raises:
        ValueError: Certificates are given for a plaintext channel.
    """
    if tls is None:
        tls = root_certificates is not None or not is_local(target)
    if not tls:
        if root_certificates is not None:
            raise ValueError("root_certificates are of no use with tls=False: leave one of them out")
        return None
    return grpc.ssl_channel_credentials(root_certificates)


def check_key(key: str) -> None:
    """Refuse a key that could not be sent.

    Raises:
        ValueError: It is no line of visible ASCII. The text does not show it.
    """
    if key and not _KEY.fullmatch(key):
        raise ValueError(
            "key must be 1 to 4096 visible ASCII characters without spaces and line ends: strip it"
        )


def is_local(target: str) -> bool:
    """Tell whether an address stays on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    hosts = re.sub(r"^(?:dns:(?://[^/]*/)?|ipv4:|ipv6:)", "", target).split(",")
    return all(_is_loopback(_host(host)) for host in hosts)


def _host(text: str) -> str:
    """Take the port away, as gRPC does: an IPv6 address without brackets has none."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::\d+)?", text)
    if bracketed:
        return bracketed[1]
    return text if text.count(":") > 1 else text.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
