"""The gRPC server: its options, credentials and services."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from zoomgate.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    meetings_service_pb2,
    meetings_service_pb2_grpc,
    proxy_service_pb2,
    proxy_service_pb2_grpc,
    registrants_service_pb2,
    registrants_service_pb2_grpc,
)
from zoomgate_server.identity import Principal
from zoomgate_server.rpc import callers_file, reflection
from zoomgate_server.rpc.middleware import access_policy
from zoomgate_server.rpc.middleware.pipeline import Pipeline
from zoomgate_server.rpc.services.auth import AuthService
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.rpc.services.proxy import ProxyService
from zoomgate_server.rpc.services.registrants import RegistrantsService
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry import logs

if TYPE_CHECKING:
    from zoomgate_server.rpc import tls

MAX_REQUEST_BYTES = 4 * 1024 * 1024

MAX_METADATA_BYTES = 16 * 1024

MAX_PENDING_CALLS = 50_000
"""The maximum number of calls that have arrived but are not accepted yet. All watches of a process, 20,000, may start at the same time."""

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    # by default, gRPC rejects metadata between the two limits at random
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", 100),
    # by default, gRPC cancels calls without a reason if more than 1,000 arrive before the event loop can accept them
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    # disabled: gRPC counts finished streams until it cleans them up, so it would reset calls of clients that observe the limit
    ("grpc.http.overload_protection", 0),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.max_connection_idle_ms", 10 * 60_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Go and Java clients ping every 10 seconds at most; the interval includes a margin for pings that arrive early
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (auth_service_pb2, "AuthService"),
        (meetings_service_pb2, "MeetingsService"),
        (registrants_service_pb2, "RegistrantsService"),
        (proxy_service_pb2, "ProxyService"),
    )
)
METHODS = tuple(method.full_name for service in _SERVICES for method in service.methods)
"""The full names of all RPCs."""

_log = logs.get("zoomgate.app")


def new_server(*, shared_port: bool) -> grpc.aio.Server:
    """Create a server; `shared_port` lets other processes listen on the same port."""
    # disabled unless needed; otherwise, two unrelated servers could share a port unnoticed
    return grpc.aio.server(options=[*SERVER_OPTIONS, ("grpc.so_reuseport", int(shared_port))])


def caller_keys(path: Path | None, setting: str) -> Mapping[str, Principal]:
    """Return the keys in the callers file, or no keys if there is no file. Errors start with the name of the setting.

    Raises:
        StartError: The file is invalid.
    """
    if path is None:
        return {}
    try:
        return callers_file.load(path, access_policy.CALLABLE_METHODS)
    except callers_file.CallersError as error:
        raise StartError("\n".join(f"{setting}: {problem}" for problem in error.problems)) from None


def certificate(
    paths: tuple[Path, Path] | None, names: Mapping[str, str]
) -> "tls.ReloadingCertificate | None":
    """Load the certificate and key, or return None without TLS.

    Raises:
        StartError: The certificate or the key is invalid.
    """
    if paths is None:
        return None
    from zoomgate_server.rpc import tls  # noqa: PLC0415 - its library takes 3 % of the start, and only TLS needs it

    try:
        return tls.ReloadingCertificate(*paths, names, on_change=_log_certificate)
    except tls.TlsError as error:
        raise StartError(str(error)) from None


def bind(
    server: grpc.aio.Server,
    address: str,
    names: Mapping[str, str],
    certificate: "tls.ReloadingCertificate | None",
) -> int:
    """Bind the gRPC port and return the port number. Clients can connect before the server starts; their calls wait until then.

    Raises:
        StartError: The address cannot be bound.
    """
    try:
        if certificate is not None:
            return server.add_secure_port(address, _tls_credentials(certificate))
        return server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(
            f"{names['listen']}: cannot listen on {address} (in use, or not permitted); choose a different port"
        ) from None


def _tls_credentials(certificate: "tls.ReloadingCertificate") -> grpc.ServerCredentials:
    def configuration(pair: "tls.CertificatePair") -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])

    def changed() -> grpc.ServerCertificateConfiguration | None:
        pair = certificate.changed()
        return None if pair is None else configuration(pair)

    # the type stubs do not allow None, which gRPC interprets as "unchanged"
    return grpc.dynamic_ssl_server_credentials(configuration(certificate.current), changed)  # type: ignore[arg-type]


def _log_certificate(problem: str | None) -> None:
    if problem is None:
        _log.info("tls.certificate_reloaded")
    else:
        _log.warning("tls.certificate_reload_failed", problem=problem)


def register(
    pipeline: Pipeline,
    *,
    auth: AuthService,
    meetings: MeetingsService,
    registrants: RegistrantsService,
    proxy: ProxyService,
    health: "health_aio.HealthServicer",
    enable_reflection: bool,
) -> None:
    """Add the services to a server, optionally with gRPC reflection."""
    registrar: Any = pipeline  # implements the two methods of a server that generated code calls
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(auth, registrar)
    meetings_service_pb2_grpc.add_MeetingsServiceServicer_to_server(meetings, registrar)
    registrants_service_pb2_grpc.add_RegistrantsServiceServicer_to_server(registrants, registrar)
    proxy_service_pb2_grpc.add_ProxyServiceServicer_to_server(proxy, registrar)
    health_pb2_grpc.add_HealthServicer_to_server(health, registrar)
    if enable_reflection:
        names = [service.full_name for service in _SERVICES]
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.register(registrar, [*names, health_name])


async def set_health(
    health: "health_aio.HealthServicer", status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType"
) -> None:
    """Set the health status of the server and of each service."""
    for name in ("", *(service.full_name for service in _SERVICES)):
        await health.set(name, status)
