"""Configuration of gRPC channels to the service: address, TLS and automatic retries."""

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from zoomgate.v1 import (
    auth_service_pb2,
    meetings_service_pb2,
    proxy_service_pb2,
    registrants_service_pb2,
)

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Maximum size of a response. Proxy responses can exceed gRPC's default of 4 MiB."""

KEEPALIVE_SECONDS = 30
"""Interval of keepalive pings during a call. The service accepts an interval of 10 seconds."""

KEEPALIVE_TIMEOUT_SECONDS = 10
"""Time to wait for the response to a keepalive ping before the connection is considered lost."""

RECONNECT_SECONDS = 5
"""Maximum delay between connection attempts. gRPC's default grows to two minutes, which would delay recovery after an outage."""

RETRY_FAILURE_BUDGET = 50
"""Number of failures in quick succession after which calls are no longer retried.

When one of several servers stops, all calls on that server fail at the same time. A small number would prevent their retries on the
other servers.
"""

SERVICES: tuple[ServiceDescriptor, ...] = (
    auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"],
    meetings_service_pb2.DESCRIPTOR.services_by_name["MeetingsService"],
    registrants_service_pb2.DESCRIPTOR.services_by_name["RegistrantsService"],
    proxy_service_pb2.DESCRIPTOR.services_by_name["ProxyService"],
)

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
_KEY = re.compile(r"[!-~]{1,4096}", re.ASCII)
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""The schemes of names that gRPC resolves (https://github.com/grpc/grpc/blob/master/doc/naming.md)."""
_HOST_PORT = re.compile(r"(?:\[[^\[\]]+\]|[^\s:/?#\[\]]+):[0-9]{1,5}", re.ASCII)


def retry_safe(service: ServiceDescriptor) -> frozenset[str]:
    """Return the names of the RPCs that the proto file declares free of side effects or idempotent."""
    return frozenset(
        method.name
        for method in service.methods
        if method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    )


def service_config() -> str:
    """Return the service config (https://github.com/grpc/grpc/blob/master/doc/service_config.md) as JSON.

    Calls that fail with UNAVAILABLE, or that a stopping server cancels, are retried up to 3 times, but only RPCs that the proto file
    declares safe to retry. If the service requests a delay (`grpc-retry-pushback-ms`), gRPC waits for it; otherwise for 0.1 to 1 second.
    Each failure adds 1 to a counter, and each success subtracts 0.1. While the counter is at least `RETRY_FAILURE_BUDGET`, calls are not
    retried.
    """
    safe = [
        {"service": service.full_name, "method": method}
        for service in SERVICES
        for method in sorted(retry_safe(service))
    ]
    return json.dumps(
        {
            "methodConfig": [{"name": safe, "retryPolicy": _RETRY_POLICY}],
            "retryThrottling": {"maxTokens": 2 * RETRY_FAILURE_BUDGET, "tokenRatio": 0.1},
        }
    )


def options(target: str, overrides: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the channel options for a target; `overrides` take precedence."""
    defaults: dict[str, Any] = {
        "grpc.service_config": service_config(),
        "grpc.lb_policy_name": "round_robin",  # gRPC's default sends all calls to the first address of a name
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": KEEPALIVE_SECONDS * 1000,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_SECONDS * 1000,
        "grpc.http2.ping_timeout_ms": KEEPALIVE_TIMEOUT_SECONDS * 1000,  # otherwise gRPC waits for a minute
        "grpc.http2.max_pings_without_data": 0,  # no limit, since watches send no data
        "grpc.max_reconnect_backoff_ms": RECONNECT_SECONDS * 1000,
    }
    if is_local(target):
        defaults["grpc.enable_http_proxy"] = 0
    return list((defaults | dict(overrides)).items())


def credentials(
    target: str, root_certificates: bytes | None, tls: bool | None
) -> grpc.ChannelCredentials | None:
    """Return the credentials for a channel, or None for a plaintext channel.

    Raises:
        ValueError: `root_certificates` was combined with `tls=False`.
    """
    if tls is None:
        tls = root_certificates is not None or not is_local(target)
    if not tls:
        if root_certificates is not None:
            raise ValueError("root_certificates cannot be combined with tls=False; omit one of them")
        return None
    return grpc.ssl_channel_credentials(root_certificates)


def check_target(target: str) -> None:
    """Check that a target is HOST:PORT or a name with a scheme that gRPC resolves.

    Raises:
        ValueError: gRPC could not use the target, or would use port 443.
    """
    if not target.startswith(_SCHEMES) and not _HOST_PORT.fullmatch(target):
        raise ValueError(
            f"target is {target!r}; pass HOST:PORT, such as 127.0.0.1:50051, or a name such as dns:///zoomgate:50051"
        )


def check_key(key: str) -> None:
    """Check that a key can be sent as metadata. An empty key is valid.

    Raises:
        ValueError: The key is longer than 4096 characters or contains characters other than visible ASCII. The message does not contain
            the key.
    """
    if key and not _KEY.fullmatch(key):
        raise ValueError(
            "key must be 1 to 4096 visible ASCII characters, without spaces or line breaks; remove all other characters"
        )


def is_local(target: str) -> bool:
    """Return whether a target consists of loopback addresses only."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    hosts = re.sub(r"^(?:dns:(?://[^/]*/)?|ipv4:|ipv6:)", "", target).split(",")
    return all(_is_loopback(_host(host)) for host in hosts)


def _host(text: str) -> str:
    """Return an address without its port. As in gRPC, an IPv6 address without brackets has no port."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::\d+)?", text)
    if bracketed:
        return bracketed[1]
    return text if text.count(":") > 1 else text.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
