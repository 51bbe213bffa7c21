"""Settings, read and validated once at startup.

Each setting is a field of `Settings`, which states its name, type, default and description.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoomgate_server import file_system
from zoomgate_server.secret import Secret
from zoomgate_server.settings import opentelemetry
from zoomgate_server.settings.address import Address
from zoomgate_server.settings.definition import Rejected, Setting, setting
from zoomgate_server.settings.opentelemetry import OpenTelemetry
from zoomgate_server.settings.sources import Sources
from zoomgate_server.settings.value_types import (
    ADDRESS,
    AUDIT,
    BASE_URL,
    CLIENT_ID,
    COLOR,
    CONNECT_URL,
    DOWNLOAD_HOSTS,
    NETWORKS,
    OPTIONAL_PATH,
    ORIGINS,
    PATH,
    PUBLIC_URL,
    REDIRECT_URI,
    RETURN_TO,
    SCOPES,
    SECRETS,
    STORE,
    SWITCH,
    TIMEZONE,
    ZOOM_HOSTS,
    Network,
    integer,
    one_of,
    parse_secrets,
    text,
)

VELO_SECRET = "velo-zoom-integration-client-secret"
"""Name of the client secret in Wix's Secrets Manager."""

WEBHOOK_SECRET = "zoom-webhook-secret-token"
"""Name of the file with the webhook secret token."""

_CALLBACK = "/oauth/callback"


class SettingsError(Exception):
    """The settings are invalid. Each problem is one sentence."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the server, in the order of the documentation. Use `load` to create it.

    Attributes:
        names: How the user knows each setting: as given, such as `--listen`, or else by its environment variable.
        store: The SQLite file, or the URL of a MongoDB database.
        client_secret: The client secrets from whichever source, newest first.
        redirect_uri: The configured URI, or the one derived from `public_url`. If empty, the URI is derived from the HTTP server's address.
        audit: None if the audit trail is written to the log.
        webhook_secret: The webhook secrets from whichever source, newest first.
        opentelemetry: What the standard variables of OpenTelemetry enable.
    """

    names: Mapping[str, str]
    keys_are_default: bool
    opentelemetry: OpenTelemetry
    config: Path | None = setting(
        OPTIONAL_PATH, "", "TOML file with these settings, or a Velo `config.json`", option=True
    )
    listen: Address = setting(
        ADDRESS, "127.0.0.1:50051", "address of the gRPC server; port 0 selects a free port", option=True
    )
    http_listen: Address = setting(
        ADDRESS, "127.0.0.1:8080", "address of the HTTP server; port 0 selects a free port", option=True
    )
    data_dir: Path = setting(
        PATH,
        ".zoomgate",
        "directory that contains the store and the key ring; created with mode 0700",
        option=True,
    )
    store: Path | Secret = setting(STORE, "sqlite:///{data_dir}/zoomgate.db", "URL of the store", option=True)
    store_wait: float = setting(
        integer(0, 3600), "30", "time to wait for MongoDB at startup, in seconds; 0 for a single attempt"
    )
    keys: Path = setting(PATH, "{data_dir}/keys.json", "key ring file, created by `zoomgate keys new`")
    client_id: str = setting(CLIENT_ID, "", "client ID of the Zoom app")
    client_secret: tuple[Secret, ...] = setting(SECRETS, "", "client secret of the Zoom app")
    client_secret_file: Path | None = setting(
        OPTIONAL_PATH,
        "",
        "file that contains the client secret; for several secrets, one per line, newest first",
    )
    secrets_dir: Path | None = setting(
        OPTIONAL_PATH,
        "",
        f"directory with one file per secret; the service reads `{VELO_SECRET}` and `{WEBHOOK_SECRET}`",
    )
    redirect_uri: str = setting(
        REDIRECT_URI,
        "",
        f"redirect URI, exactly as registered with Zoom; by default the public URL or the HTTP address, plus {_CALLBACK}",
    )
    return_to: Mapping[str, str] = setting(RETURN_TO, "", "allowed redirect targets after consent")
    required_scopes: tuple[str, ...] = setting(
        SCOPES,
        "",
        "scopes that your applications need; `missing_scopes` of a connection lists those not granted",
    )
    zoom_api_url: str = setting(BASE_URL, "https://api.zoom.us/v2", "base URL of Zoom's API")
    zoom_api_hosts: tuple[str, ...] = setting(
        ZOOM_HOSTS,
        ", ".join(f"api-{region}.zoom.us" for region in ("us", "au", "ca", "eu", "in", "sa", "sg", "uk")),
        "regional hosts that the URL of a proxy request may name; the request is sent to the base URL",
    )
    download_hosts: tuple[str, ...] = setting(
        DOWNLOAD_HOSTS,
        "zoom.us, *.zoom.us",
        "hosts, other than that of the base URL, from which files may be downloaded and to which downloads may be redirected",
    )
    zoom_oauth_url: str = setting(BASE_URL, "https://zoom.us/oauth", "base URL of Zoom's OAuth endpoints")
    callers: Path | None = setting(OPTIONAL_PATH, "", "TOML file with the callers", option=True)
    reflection: bool = setting(
        SWITCH, "on", "whether gRPC reflection is available to callers with a credential"
    )
    connect_rpc: bool = setting(
        SWITCH, "off", "whether the HTTP server also serves the unary RPCs, with the Connect protocol"
    )
    allowed_origins: tuple[str, ...] = setting(
        ORIGINS,
        "",
        "origins of web pages whose scripts may call the RPCs over HTTP, such as https://app.example.com",
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "minimum level of log lines", option=True
    )
    log_format: str = setting(
        one_of("auto", "json", "console"),
        "auto",
        "format of log lines; `auto` is `console` on a terminal, otherwise `json`",
        option=True,
    )
    audit: Path | None = setting(
        AUDIT, "{data_dir}/audit.jsonl", "file of the audit trail, or `log` to write it to the log"
    )
    audit_required: bool = setting(
        SWITCH,
        "on",
        "if the audit line of a token cannot be written: `on` withholds the token, `off` writes the line to the log instead",
    )
    default_topic: str = setting(text(200), "Zoom meeting", "topic of meetings created without one")
    default_duration_minutes: int = setting(
        integer(1, 1440), "60", "duration of meetings created without one, in minutes"
    )
    default_timezone: str = setting(TIMEZONE, "UTC", "time zone of meetings created without one")
    forced_refresh_seconds: float = setting(
        integer(0, 3600), "60", "minimum interval between forced refreshes per user, in seconds"
    )
    max_refreshes_per_hour: int = setting(
        integer(2, 1000), "20", "maximum number of refreshes per user and hour"
    )
    proactive_refreshes_per_minute: int = setting(
        integer(0, 6000), "60", "maximum number of proactive refreshes per minute and worker; 0 disables them"
    )
    reauth_retention_days: int = setting(
        integer(0, 3650),
        "90",
        "days after which a connection that needs a new consent is disconnected; 0 for never",
    )
    max_concurrent_refreshes: int = setting(
        integer(4, 10_000),
        "64",
        "maximum number of concurrent token refreshes per worker; background work uses at most a quarter of them",
    )
    max_concurrent_exchanges: int = setting(
        integer(1, 10_000),
        "16",
        "maximum number of concurrent exchanges of authorization codes and callers' refresh tokens per worker",
    )
    max_concurrent_zoom_calls: int = setting(
        integer(1, 100_000), "2000", "maximum number of concurrent calls to Zoom's API per worker"
    )
    max_concurrent_downloads: int = setting(
        integer(1, 10_000),
        "64",
        "maximum number of concurrent downloads per worker; each of them uses up to 2 MiB of memory",
    )
    max_pending_per_user: int = setting(
        integer(1, 1000),
        "20",
        "maximum number of authorizations started for one user in 10 minutes, per worker",
    )
    max_pending_per_caller: int = setting(
        integer(1, 100_000),
        "1000",
        "maximum number of authorizations started by one caller in 10 minutes, per worker",
    )
    max_response_bytes: int = setting(
        integer(65_536, 30_000_000),
        "3670016",
        "maximum size of Zoom's responses, in bytes; gRPC clients reject messages above 4 MiB by default",
    )
    workers: int = setting(
        integer(1, 64), "1", "number of worker processes, which share the two ports", option=True
    )
    batch_scheduling: bool = setting(
        SWITCH, "on", "whether the processes use the scheduling class SCHED_BATCH, on Linux"
    )
    drain_seconds: float = setting(
        integer(0, 600), "30", "time for running calls to finish after SIGTERM, in seconds"
    )
    tls_cert: Path | None = setting(
        OPTIONAL_PATH, "", "PEM file with the certificate chain of the gRPC server; reloaded when it changes"
    )
    tls_key: Path | None = setting(
        OPTIONAL_PATH, "", "PEM file with the private key of the certificate, without a passphrase"
    )
    public_url: str = setting(PUBLIC_URL, "", "URL at which browsers reach the HTTP server")
    trusted_proxies: tuple[Network, ...] = setting(NETWORKS, "", "proxies in front of the HTTP server")
    metrics_networks: tuple[Network, ...] = setting(
        NETWORKS, "", "clients that may scrape `/metrics`; by default all clients except the proxies"
    )
    brand_name: str = setting(text(60), "Zoomgate", "brand name on the consent pages")
    brand_color: str = setting(COLOR, "#0b5cff", "brand color on the consent pages")
    connect_url: str = setting(
        CONNECT_URL, "", "page of your application where users connect Zoom; the result pages link to it"
    )
    webhook_secret: tuple[Secret, ...] = setting(SECRETS, "", "webhook secret token of the Zoom app")

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """The paths of the certificate and the key."""
        return (self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else None

    @property
    def has_https_pages(self) -> bool:
        """Whether browsers reach the consent pages over https."""
        return urlsplit(self.public_url or self.redirect_uri).scheme == "https"

    @property
    def app(self) -> str:
        """The key of the Zoom app in the store: OAuth origin and client ID."""
        parts = urlsplit(self.zoom_oauth_url)
        origin = parts.netloc if parts.scheme == "https" else "loopback"  # a simulator's port may change
        return f"{origin}|{self.client_id}"


SETTINGS = tuple(Setting(row.name, **row.metadata) for row in fields(Settings) if row.metadata)


def load(environ: Mapping[str, str], options: Mapping[str, str] | None = None) -> Settings:
    """Read and validate all settings. The command-line options have the names of the settings.

    Raises:
        SettingsError: Settings are invalid; lists all problems.
    """
    sources = Sources(SETTINGS, environ, options or {})
    values: dict[str, Any] = {}
    for row in SETTINGS:
        values[row.name] = sources.value(row, values)
    _check_listeners(sources, values)
    if values["allowed_origins"] and not values["connect_rpc"]:
        sources.reject(
            "allowed_origins", "requires RPCs over HTTP; set ZOOMGATE_CONNECT_RPC to on, or remove it"
        )
    _check_client(sources)
    values["client_secret"] = _client_secrets(sources, values)
    values["webhook_secret"] = _webhook_secrets(sources, values)
    values["redirect_uri"] = _redirect_uri(sources, values)
    telemetry = opentelemetry.parse(environ, sources.problems)
    if sources.problems:
        raise SettingsError(sources.problems)
    return Settings(
        names=sources.names, keys_are_default="keys" not in sources, opentelemetry=telemetry, **values
    )


def _check_listeners(sources: Sources, values: Mapping[str, Any]) -> None:
    """Require encryption for listeners that other machines can reach."""
    for missing, present in (("tls_key", "tls_cert"), ("tls_cert", "tls_key")):
        if present in sources and missing not in sources:
            sources.reject(missing, f"is required with {sources.names[present]}; set both or neither")
    has_tls = "tls_cert" in sources or "tls_key" in sources
    if not has_tls and not values["listen"].is_loopback:
        sources.reject(
            "listen",
            f"is {str(values['listen'])!r}, which is reachable from other machines; set ZOOMGATE_TLS_CERT and"
            " ZOOMGATE_TLS_KEY, or listen on 127.0.0.1",
        )
    is_behind_proxy = values["trusted_proxies"] and values["public_url"].startswith("https://")
    is_known = sources.rejected.isdisjoint(("http_listen", "trusted_proxies", "public_url"))
    if is_known and not is_behind_proxy and not values["http_listen"].is_loopback:
        sources.reject(
            "http_listen",
            f"is {str(values['http_listen'])!r}, which is reachable from other machines; use a proxy that terminates TLS and set"
            " ZOOMGATE_TRUSTED_PROXIES and an https ZOOMGATE_PUBLIC_URL, or listen on 127.0.0.1",
        )


def _check_client(sources: Sources) -> None:
    """Require a client ID and exactly one source of secrets, or neither."""
    given = [name for name in ("client_secret", "client_secret_file") if name in sources]
    if "client_id" not in sources:
        for name in given:
            sources.reject("client_id", f"is required with {sources.names[name]}; set both or neither")
    elif not given and "secrets_dir" not in sources:
        sources.reject(
            "client_secret",
            f"is required with {sources.names['client_id']}; set it, or ZOOMGATE_CLIENT_SECRET_FILE",
        )
    if len(given) == 2:
        sources.reject(
            "client_secret_file",
            f"cannot be combined with {sources.names['client_secret']}; set only one of them",
        )


def _client_secrets(sources: Sources, values: Mapping[str, Any]) -> tuple[Secret, ...]:
    secrets: tuple[Secret, ...] = values["client_secret"]
    if values["client_secret_file"]:
        return secrets + _read_secrets(
            sources, "client_secret_file", values["client_secret_file"], "a file that"
        )
    if values["secrets_dir"] and "client_secret" not in sources:
        return _read_from_directory(sources, values["secrets_dir"], VELO_SECRET)
    return secrets


def _webhook_secrets(sources: Sources, values: Mapping[str, Any]) -> tuple[Secret, ...]:
    secrets: tuple[Secret, ...] = values["webhook_secret"]
    directory: Path | None = values["secrets_dir"]
    if directory and "webhook_secret" not in sources:
        return _read_from_directory(sources, directory, WEBHOOK_SECRET, optional=True)
    return secrets


def _read_from_directory(
    sources: Sources, directory: Path, file: str, *, optional: bool = False
) -> tuple[Secret, ...]:
    subject = f"a directory whose file {file}"
    return _read_secrets(sources, "secrets_dir", directory / file, subject, optional=optional)


def _read_secrets(
    sources: Sources, name: str, path: Path, subject: str, *, optional: bool = False
) -> tuple[Secret, ...]:
    """Read the secrets in a file, or reject the setting without its value, which may be a secret instead of a path.

    Args:
        subject: What the setting refers to, and the subject of the problem.
        optional: Whether the file may be missing.
    """
    try:
        return parse_secrets(file_system.read_regular(path).decode())
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError):
            return ()
        problem = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        problem = "is not a text file; write the secrets to it, one per line"
    except Rejected as error:
        problem = str(error)
    sources.reject(name, f"refers to {subject} {problem}")
    return ()


def _redirect_uri(sources: Sources, values: Mapping[str, Any]) -> str:
    uri: str = values["redirect_uri"]
    public_url: str = values["public_url"]
    if not public_url:
        return uri
    parts = urlsplit(uri)
    if parts.path == _CALLBACK and f"{parts.scheme}://{parts.netloc.lower()}" != public_url:
        sources.reject(
            "redirect_uri",
            f"has a different host than {sources.names['public_url']}; use {public_url}{_CALLBACK}, or omit it",
        )
    return uri or f"{public_url}{_CALLBACK}"
