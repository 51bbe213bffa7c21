"""Settings, read and validated once at startup.

Sources, in order of precedence: the command line, the environment, and a TOML file, which uses the same names in lower case and without
the prefix. All errors are reported together, one sentence each.
"""

import difflib
import ipaddress
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import orjson

from zoomgate_server.secret import Secret

PREFIX = "ZOOMGATE_"
VELO_SECRET = "velo-zoom-integration-client-secret"
"""Name of the client secret in Wix's Secrets Manager."""

WEBHOOK_SECRET = "zoom-webhook-secret-token"
"""Name of the file with the webhook secret token."""

ZOOM_API_URL = "https://api.zoom.us/v2"
ZOOM_OAUTH_URL = "https://zoom.us/oauth"

_T = TypeVar("_T")


class SettingsError(Exception):
    """The settings are invalid.

    Args:
        problems: One sentence for each problem.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, as listed in the documentation.

    Attributes:
        name: The environment variable.
        default: The default as text.
        description: The purpose, unit and range.
        secret: Whether the value must not be shown.
        planned: Whether the setting is not supported yet and is therefore rejected.
    """

    name: str
    default: str
    description: str
    secret: bool = False
    planned: bool = False


SETTINGS = (
    Setting("ZOOMGATE_CONFIG", "", "TOML file with these settings, or a Velo `config.json`"),
    Setting("ZOOMGATE_LISTEN", "127.0.0.1:50051", "address of the gRPC server; port 0 selects a free port"),
    Setting(
        "ZOOMGATE_HTTP_LISTEN", "127.0.0.1:8080", "address of the HTTP server; port 0 selects a free port"
    ),
    Setting(
        "ZOOMGATE_DATA_DIR",
        ".zoomgate",
        "directory that contains the store and the key ring; created with mode 0700",
    ),
    Setting(
        "ZOOMGATE_STORE",
        "sqlite:///…/zoomgate.db in the data directory",
        "URL of the store: `sqlite:///` and the path of a file, or `mongodb://…/database`",
        secret=True,
    ),
    Setting(
        "ZOOMGATE_STORE_WAIT",
        "30",
        "time to wait for MongoDB at startup, in seconds; 0 to 3600, 0 for a single attempt",
    ),
    Setting(
        "ZOOMGATE_KEYS", "keys.json in the data directory", "key ring file, created by `zoomgate keys new`"
    ),
    Setting("ZOOMGATE_CLIENT_ID", "", "client ID of the Zoom app"),
    Setting(
        "ZOOMGATE_CLIENT_SECRET",
        "",
        "client secret of the Zoom app; separate multiple secrets with spaces, newest first",
        secret=True,
    ),
    Setting(
        "ZOOMGATE_CLIENT_SECRET_FILE",
        "",
        "file that contains the client secret; for several secrets, one per line, newest first",
    ),
    Setting(
        "ZOOMGATE_SECRETS_DIR",
        "",
        f"directory with one file per secret; the service reads `{VELO_SECRET}` and `{WEBHOOK_SECRET}`",
    ),
    Setting(
        "ZOOMGATE_REDIRECT_URI",
        "public URL or HTTP address + /oauth/callback",
        "redirect URI, exactly as registered with Zoom",
    ),
    Setting(
        "ZOOMGATE_RETURN_TO",
        "",
        "allowed redirect targets after consent: `name=https://…`, separated by commas",
    ),
    Setting(
        "ZOOMGATE_ZOOM_API_URL",
        ZOOM_API_URL,
        "base URL of Zoom's API; plain HTTP is allowed only for loopback addresses",
    ),
    Setting(
        "ZOOMGATE_ZOOM_OAUTH_URL",
        ZOOM_OAUTH_URL,
        "base URL of Zoom's OAuth endpoints; plain HTTP is allowed only for loopback addresses",
    ),
    Setting("ZOOMGATE_CALLERS", "", "TOML file with the callers"),
    Setting(
        "ZOOMGATE_REFLECTION",
        "on",
        "whether gRPC reflection is available to callers with a credential: `on` or `off`",
    ),
    Setting(
        "ZOOMGATE_LOG_LEVEL", "info", "minimum level of log lines: `debug`, `info`, `warning` or `error`"
    ),
    Setting("ZOOMGATE_LOG_FORMAT", "json, console on a terminal", "format of log lines: `json` or `console`"),
    Setting(
        "ZOOMGATE_AUDIT",
        "audit.jsonl in the data directory",
        "file of the audit trail, or `log` to write it to the log",
    ),
    Setting(
        "ZOOMGATE_AUDIT_REQUIRED",
        "on",
        "if the audit line of a token cannot be written: `on` withholds the token, `off` writes the line to the log instead",
    ),
    Setting(
        "ZOOMGATE_DEFAULT_TOPIC",
        "Zoom meeting",
        "topic of meetings created without one; at most 200 characters",
    ),
    Setting(
        "ZOOMGATE_DEFAULT_DURATION_MINUTES",
        "60",
        "duration of meetings created without one, in minutes; 1 to 1440",
    ),
    Setting("ZOOMGATE_DEFAULT_TIMEZONE", "UTC", "IANA time zone of meetings created without one"),
    Setting(
        "ZOOMGATE_FORCED_REFRESH_SECONDS",
        "60",
        "minimum interval between forced refreshes per user, in seconds; 0 to 3600",
    ),
    Setting(
        "ZOOMGATE_MAX_REFRESHES_PER_HOUR", "20", "maximum number of refreshes per user and hour; 2 to 1000"
    ),
    Setting(
        "ZOOMGATE_PROACTIVE_REFRESHES_PER_MINUTE",
        "60",
        "maximum number of proactive refreshes per minute and worker; 0 to 6000, 0 disables them",
    ),
    Setting(
        "ZOOMGATE_REAUTH_RETENTION_DAYS",
        "90",
        "days after which a connection that needs a new consent is disconnected; 0 to 3650, 0 for never",
    ),
    Setting(
        "ZOOMGATE_MAX_PENDING_PER_USER",
        "20",
        "maximum number of authorizations started for one user in 10 minutes, per worker; 1 to 1000",
    ),
    Setting(
        "ZOOMGATE_MAX_PENDING_PER_CALLER",
        "1000",
        "maximum number of authorizations started by one caller in 10 minutes, per worker; 1 to 100000",
    ),
    Setting("ZOOMGATE_WORKERS", "1", "number of worker processes, which share the two ports; 1 to 64"),
    Setting(
        "ZOOMGATE_DRAIN_SECONDS", "30", "time for running calls to finish after SIGTERM, in seconds; 0 to 600"
    ),
    Setting(
        "ZOOMGATE_TLS_CERT",
        "",
        "PEM file with the certificate chain of the gRPC server; reloaded when it changes",
    ),
    Setting("ZOOMGATE_TLS_KEY", "", "PEM file with the private key of the certificate, without a passphrase"),
    Setting(
        "ZOOMGATE_PUBLIC_URL",
        "",
        "URL at which browsers reach the HTTP server, such as `https://zoomgate.example.com`",
    ),
    Setting(
        "ZOOMGATE_TRUSTED_PROXIES",
        "",
        "IP addresses or networks of the proxies in front of the HTTP server, separated by commas",
    ),
    Setting(
        "ZOOMGATE_BRAND_NAME",
        "Zoomgate",
        "brand name on the consent pages; at most 60 characters",
    ),
    Setting("ZOOMGATE_BRAND_COLOR", "#0b5cff", "brand color on the consent pages, as `#rrggbb`"),
    Setting(
        "ZOOMGATE_WEBHOOK_SECRET",
        "",
        "webhook secret token of the Zoom app; separate multiple secrets with spaces, newest first",
        secret=True,
    ),
    Setting("ZOOMGATE_TLS_CLIENT_CA", "", "certificate authority of client certificates", planned=True),
)
"""All settings, in the order of the documentation."""

CLIENT_VARIABLES = frozenset({"ZOOMGATE_SERVER", "ZOOMGATE_KEY", "ZOOMGATE_CA_FILE"})
"""Environment variables of the client commands, ignored by the server."""

_SERVICE_LINK = re.compile(
    r"[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse HOST:PORT; IPv6 addresses must be in brackets.

        Raises:
            ValueError: `text` is not HOST:PORT.
        """
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not _is_host(host):
            raise ValueError("not HOST:PORT")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the address is reachable only from the local machine."""
        try:
            hosts = {str(row[4][0]) for row in socket.getaddrinfo(self.host, None)} if self.host else set()
            return bool(hosts) and all(ipaddress.ip_address(host).is_loopback for host in hosts)
        except (OSError, ValueError):
            return False


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class MeetingDefaults:
    """Default values for meetings that are created without these values."""

    topic: str
    duration_minutes: int
    timezone: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the server. Use `load` to create it.

    Attributes:
        store_uri: The URL of a MongoDB database, which replaces the SQLite file at `store_path`.
        redirect_uri: The configured URI, or the one derived from `public_url`. If empty, the URI is derived from the HTTP server's address.
        audit_path: None if the audit trail is written to the log.
        tls: The paths of the certificate and the key.
    """

    listen: Address
    http_listen: Address
    data_dir: Path
    store_path: Path
    store_uri: Secret | None
    store_wait_seconds: float
    keys_path: Path
    keys_are_default: bool
    client_id: str
    client_secrets: tuple[Secret, ...]
    redirect_uri: str
    return_to: Mapping[str, str]
    zoom_api_url: str
    zoom_oauth_url: str
    callers_path: Path | None
    reflection: bool
    log_level: str
    log_format: str
    audit_path: Path | None
    audit_required: bool
    meeting_defaults: MeetingDefaults
    forced_refresh_seconds: float
    max_refreshes_per_hour: int
    proactive_refreshes_per_minute: int
    reauth_retention_days: int
    max_pending_per_user: int
    max_pending_per_caller: int
    workers: int
    drain_seconds: float
    tls: tuple[Path, Path] | None
    public_url: str
    trusted_proxies: tuple[Network, ...]
    brand_name: str
    brand_color: str
    webhook_secrets: tuple[Secret, ...]

    @property
    def app(self) -> str:
        """The key of the Zoom app in the store: OAuth origin and client ID."""
        parts = urlsplit(self.zoom_oauth_url)
        origin = parts.netloc if parts.scheme == "https" else "loopback"  # a simulator's port may change
        return f"{origin}|{self.client_id}"


def load(
    environ: Mapping[str, str], overrides: Mapping[str, str] | None = None, *, terminal: bool = False
) -> Settings:
    """Read and validate all settings.

    Args:
        environ: The environment variables.
        overrides: The command-line options, keyed by environment variable.
        terminal: Whether logs are written to a terminal.

    Raises:
        SettingsError: Settings are invalid; lists all problems.
    """
    return _Reader(environ, overrides or {}, terminal=terminal).read()


class _Reader:
    """A reader of settings that collects all problems."""

    def __init__(self, environ: Mapping[str, str], overrides: Mapping[str, str], *, terminal: bool) -> None:
        self._problems: list[str] = []
        self._terminal = terminal
        known = {setting.name: setting for setting in SETTINGS}
        self._values: dict[str, str] = {}
        self._locations: dict[str, str] = {}  # for values from the settings file: the file and the line
        provided = {name: value for name, value in environ.items() if name.startswith(PREFIX)} | dict(
            overrides
        )
        for name in sorted(provided):
            if name in known or name in CLIENT_VARIABLES or _is_service_link(name, provided[name]):
                continue
            suggestion = _nearest(name, known)
            hint = f"; did you mean {suggestion}?" if suggestion else ""
            self._problems.append(f"unknown setting {name}{hint}")
        self._values.update(self._file(provided.get("ZOOMGATE_CONFIG", ""), known))
        for name, value in provided.items():
            if name in known and value != "":
                self._values[name] = value
                self._locations.pop(name, None)
        multiline = ("ZOOMGATE_CLIENT_SECRET", "ZOOMGATE_WEBHOOK_SECRET")
        for setting in SETTINGS:
            if setting.planned and setting.name in self._values:
                self._add_problem(setting.name, "is not supported yet; omit it")
            if setting.name not in multiline and not self._values.get(setting.name, "").isprintable():
                self._add_problem(setting.name, "contains non-printable characters; remove them")
                self._values[setting.name] = "".join(filter(str.isprintable, self._values[setting.name]))

    def read(self) -> Settings:
        """Return the validated settings.

        Raises:
            SettingsError: Settings are invalid; lists all problems.
        """
        tls = self._tls()
        public_url = self._public_url()
        proxies = self._trusted_proxies()
        listen = self._address("LISTEN", "127.0.0.1:50051")
        if not listen.is_loopback and tls is None:
            self._add_problem(
                "ZOOMGATE_LISTEN",
                f"is {str(listen)!r}, which is reachable from other machines; set ZOOMGATE_TLS_CERT and"
                " ZOOMGATE_TLS_KEY, or listen on 127.0.0.1",
            )
        http_listen = self._address("HTTP_LISTEN", "127.0.0.1:8080")
        if not http_listen.is_loopback and not (proxies and public_url.startswith("https://")):
            self._add_problem(
                "ZOOMGATE_HTTP_LISTEN",
                f"is {str(http_listen)!r}, which is reachable from other machines; use a proxy that terminates TLS and set"
                " ZOOMGATE_TRUSTED_PROXIES and an https ZOOMGATE_PUBLIC_URL, or listen on 127.0.0.1",
            )
        data_dir = Path(self._get("DATA_DIR") or ".zoomgate")
        keys = self._get("KEYS")
        store_path, store_uri = self._store(data_dir)
        settings = Settings(
            listen=listen,
            http_listen=http_listen,
            data_dir=data_dir,
            store_path=store_path,
            store_uri=store_uri,
            store_wait_seconds=self._number("STORE_WAIT", 30, 0, 3600),
            keys_path=Path(keys) if keys else data_dir / "keys.json",
            keys_are_default=not keys,
            client_id=self._client_id(),
            client_secrets=self._client_secrets(),
            redirect_uri=self._redirect_uri(public_url),
            return_to=self._return_to(),
            zoom_api_url=self._url("ZOOM_API_URL", ZOOM_API_URL),
            zoom_oauth_url=self._url("ZOOM_OAUTH_URL", ZOOM_OAUTH_URL),
            callers_path=Path(self._get("CALLERS")) if self._get("CALLERS") else None,
            reflection=self._choice("REFLECTION", "on", ("on", "off")) == "on",
            log_level=self._choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
            log_format=self._choice(
                "LOG_FORMAT", "console" if self._terminal else "json", ("json", "console")
            ),
            audit_path=self._audit(data_dir),
            audit_required=self._choice("AUDIT_REQUIRED", "on", ("on", "off")) == "on",
            meeting_defaults=self._meeting_defaults(),
            forced_refresh_seconds=self._number("FORCED_REFRESH_SECONDS", 60, 0, 3600),
            max_refreshes_per_hour=self._number("MAX_REFRESHES_PER_HOUR", 20, 2, 1000),
            proactive_refreshes_per_minute=self._number("PROACTIVE_REFRESHES_PER_MINUTE", 60, 0, 6000),
            reauth_retention_days=self._number("REAUTH_RETENTION_DAYS", 90, 0, 3650),
            max_pending_per_user=self._number("MAX_PENDING_PER_USER", 20, 1, 1000),
            max_pending_per_caller=self._number("MAX_PENDING_PER_CALLER", 1000, 1, 100_000),
            workers=self._number("WORKERS", 1, 1, 64),
            drain_seconds=self._number("DRAIN_SECONDS", 30, 0, 600),
            tls=tls,
            public_url=public_url,
            trusted_proxies=proxies,
            brand_name=self._parsed(
                "BRAND_NAME",
                "Zoomgate",
                str,
                lambda text: len(text) <= 60 and bool(text.strip()),
                "must be a non-blank name of 1 to 60 characters",
            ),
            brand_color=self._parsed(
                "BRAND_COLOR",
                "#0b5cff",
                str.lower,
                lambda text: re.fullmatch(r"#[0-9a-f]{6}", text) is not None,
                "must be a color such as #0b5cff",
            ),
            webhook_secrets=self._webhook_secrets(),
        )
        if self._problems:
            raise SettingsError(self._problems)
        return settings

    # -- sources -----------------------------------------------------------------------------------------

    def _file(self, path: str, known: Mapping[str, Setting]) -> dict[str, str]:
        """Read the TOML file or the Velo package's `config.json`."""
        if not path:
            return {}
        name = "ZOOMGATE_CONFIG"
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            self._add_problem(name, f"refers to {path}, which cannot be read ({error.strerror})")
            return {}
        if path.endswith(".json"):
            return self._velo(content, path)
        try:
            text = content.decode()
            table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self._add_problem(name, f"refers to {path}, which is not valid TOML: {error}")
            return {}
        values: dict[str, str] = {}
        for key, value in table.items():
            setting = f"{PREFIX}{key.upper()}"
            if setting not in known or key != key.lower() or setting == name:
                suggestion = _nearest(setting, known)
                hint = f"; did you mean {suggestion.removeprefix(PREFIX).lower()}?" if suggestion else ""
                self._problems.append(f"unknown setting {key} in {path}:{_line(text, key)}{hint}")
                continue
            self._locations[setting] = f"{path}:{_line(text, key)}"
            if setting == "ZOOMGATE_RETURN_TO" and isinstance(value, dict):
                if any("," in f"{target}{url}" for target, url in value.items()):
                    self._add_problem(setting, "contains a comma; escape it as %2C")
                values[setting] = ",".join(f"{target}={url}" for target, url in value.items())
            elif isinstance(value, bool | str | int):
                values[setting] = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
            else:
                self._add_problem(setting, "must be a string, an integer, true, or false")
        return values

    def _velo(self, content: bytes, path: str) -> dict[str, str]:
        try:
            zoom = orjson.loads(content)["zoom"]
            values = {
                "ZOOMGATE_CLIENT_ID": zoom["clientId"],
                "ZOOMGATE_REDIRECT_URI": zoom["redirectUri"],
            }
            if not all(isinstance(value, str) for value in values.values()):
                raise TypeError
            self._locations.update(dict.fromkeys(values, path))
            return values
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self._add_problem(
                "ZOOMGATE_CONFIG",
                f'refers to {path}, which must contain {{"zoom": {{"clientId": …, "redirectUri": …}}}}',
            )
            return {}

    def _client_id(self) -> str:
        text = self._get("CLIENT_ID")
        if text and not re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", text):
            self._add_problem(
                "ZOOMGATE_CLIENT_ID",
                "must be 1 to 128 letters, digits, or the characters . _ ~ -; copy it from Zoom again",
            )
        for name in ("CLIENT_SECRET", "CLIENT_SECRET_FILE"):
            if self._get(name) and not text:
                self._add_problem(
                    "ZOOMGATE_CLIENT_ID", f"is required with {PREFIX}{name}; set both or neither"
                )
        return text

    def _client_secrets(self) -> tuple[Secret, ...]:
        secrets: list[str] = self._get("CLIENT_SECRET").split()
        file = self._get("CLIENT_SECRET_FILE")
        if file:
            if secrets:
                self._add_problem(
                    "ZOOMGATE_CLIENT_SECRET_FILE",
                    "cannot be combined with ZOOMGATE_CLIENT_SECRET; set only one of them",
                )
            secrets += self._lines("ZOOMGATE_CLIENT_SECRET_FILE", Path(file))
        directory = self._get("SECRETS_DIR")
        if directory and not secrets:
            secrets += self._lines("ZOOMGATE_SECRETS_DIR", Path(directory) / VELO_SECRET)
        if self._get("CLIENT_ID") and not secrets and not file and not directory:
            self._add_problem(
                "ZOOMGATE_CLIENT_SECRET",
                "is required with ZOOMGATE_CLIENT_ID; set it, or ZOOMGATE_CLIENT_SECRET_FILE",
            )
        return self._secrets("ZOOMGATE_CLIENT_SECRET", secrets)

    def _webhook_secrets(self) -> tuple[Secret, ...]:
        secrets = self._get("WEBHOOK_SECRET").split()
        directory = self._get("SECRETS_DIR")
        if directory and not secrets and (Path(directory) / WEBHOOK_SECRET).exists():
            secrets = self._lines("ZOOMGATE_SECRETS_DIR", Path(directory) / WEBHOOK_SECRET)
        return self._secrets("ZOOMGATE_WEBHOOK_SECRET", secrets)

    def _secrets(self, name: str, secrets: list[str]) -> tuple[Secret, ...]:
        if not all(secret.isascii() and secret.isprintable() for secret in secrets):
            self._add_problem(name, "contains characters outside visible ASCII; copy it from Zoom again")
        return tuple(Secret(secret) for secret in secrets)

    def _lines(self, name: str, path: Path) -> list[str]:
        try:
            lines = path.read_text(encoding="utf-8").split()
        except OSError as error:
            self._add_problem(name, f"refers to {path}, which cannot be read ({error.strerror})")
            return []
        except UnicodeDecodeError:
            self._add_problem(
                name, f"refers to {path}, which is not a text file; write the secrets to it, one per line"
            )
            return []
        if not lines:
            self._add_problem(name, f"refers to {path}, which is empty; write the secret to it")
        return lines

    # -- values ------------------------------------------------------------------------------------------

    def _get(self, name: str) -> str:
        return self._values.get(PREFIX + name, "")

    def _add_problem(self, name: str, problem: str) -> None:
        location = f" ({self._locations[name]})" if name in self._locations else ""
        self._problems.append(f"{name}{location} {problem}")

    def _address(self, name: str, default: str) -> Address:
        text = self._get(name) or default
        try:
            address = Address.parse(text)
        except ValueError:
            self._add_problem(PREFIX + name, f"must be HOST:PORT, such as {default}, not {text!r}")
            return Address("127.0.0.1", 0)
        return address

    def _tls(self) -> tuple[Path, Path] | None:
        cert, key = self._get("TLS_CERT"), self._get("TLS_KEY")
        if bool(cert) != bool(key):
            missing, present = ("KEY", "CERT") if cert else ("CERT", "KEY")
            self._add_problem(
                f"ZOOMGATE_TLS_{missing}", f"is required with ZOOMGATE_TLS_{present}; set both or neither"
            )
        return (Path(cert), Path(key)) if cert and key else None

    def _public_url(self) -> str:
        text = self._get("PUBLIC_URL").rstrip("/")
        if not text:
            return ""
        parts = _split(text)
        if parts is None or parts.path or parts.query or parts.fragment or parts.username is not None:
            self._add_problem(
                "ZOOMGATE_PUBLIC_URL",
                "must contain only a scheme, a host, and optionally a port; use a URL such as https://zoomgate.example.com",
            )
            return ""
        if parts.scheme != "https" and not _is_loopback_url(text):
            self._add_problem(
                "ZOOMGATE_PUBLIC_URL", "must use https; plain HTTP is allowed only for loopback addresses"
            )
        return text

    def _trusted_proxies(self) -> tuple[Network, ...]:
        networks: list[Network] = []
        for text in filter(None, (part.strip() for part in self._get("TRUSTED_PROXIES").split(","))):
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                self._add_problem(
                    "ZOOMGATE_TRUSTED_PROXIES",
                    f"contains {text!r}; use IP addresses such as 10.0.0.7 or networks such as 10.0.0.0/24, separated by commas",
                )
                continue
            if network.prefixlen == 0:
                self._add_problem(
                    "ZOOMGATE_TRUSTED_PROXIES",
                    f"contains {text!r}, which covers all addresses; list only the proxies",
                )
            networks.append(network)
        return tuple(networks)

    def _store(self, data_dir: Path) -> tuple[Path, Secret | None]:
        text, default = self._get("STORE"), data_dir / "zoomgate.db"
        if not text:
            return default, None
        if text.startswith(("mongodb://", "mongodb+srv://")):
            return default, Secret(text)  # not validated here, since the driver is slow to import
        if not text.startswith("sqlite:///") or text == "sqlite:///":
            self._add_problem(
                "ZOOMGATE_STORE",
                "must be sqlite:/// and the path of a file (four slashes for an absolute one), or mongodb://HOSTS/DATABASE",
            )
            return default, None
        return Path(text.removeprefix("sqlite:///")), None

    def _audit(self, data_dir: Path) -> Path | None:
        text = self._get("AUDIT")
        if text in ("off", "none", "stdout", "stderr", "-"):
            self._add_problem("ZOOMGATE_AUDIT", f"must be a file path or `log`, not {text!r}")
        return None if text == "log" else Path(text) if text else data_dir / "audit.jsonl"

    def _redirect_uri(self, public_url: str) -> str:
        text = self._get("REDIRECT_URI")
        if not text:
            return f"{public_url}/oauth/callback" if public_url else ""
        parts = _split(text)
        if parts is None or parts.fragment or not parts.path:
            self._add_problem(
                "ZOOMGATE_REDIRECT_URI",
                "must be the full URL registered with Zoom, without a fragment",
            )
        elif parts.scheme != "https" and not _is_loopback_url(text):
            self._add_problem(
                "ZOOMGATE_REDIRECT_URI", "must use https; plain HTTP is allowed only for loopback addresses"
            )
        elif public_url and parts.path == "/oauth/callback" and not text.startswith(f"{public_url}/"):
            self._add_problem(
                "ZOOMGATE_REDIRECT_URI",
                f"has a different host than ZOOMGATE_PUBLIC_URL; use {public_url}/oauth/callback, or omit it",
            )
        return text

    def _return_to(self) -> dict[str, str]:
        targets: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in self._get("RETURN_TO").split(","))):
            name, _, url = part.partition("=")
            parts = _split(url)
            if not name or len(name) > 64 or parts is None or parts.fragment:
                self._add_problem(
                    "ZOOMGATE_RETURN_TO", f"contains {name!r}; use name=https://…, separated by commas"
                )
            elif parts.scheme != "https" and not _is_loopback_url(url):
                self._add_problem(
                    "ZOOMGATE_RETURN_TO",
                    f"contains {name!r}, which must use https; plain HTTP is allowed only for loopback addresses",
                )
            else:
                targets[name] = url
        return targets

    def _url(self, name: str, default: str) -> str:
        text = (self._get(name) or default).rstrip("/")
        parts = _split(text)
        if parts is None or parts.query or parts.fragment or parts.username is not None:
            self._add_problem(
                PREFIX + name, f"must be a URL such as {default}, without user, query and fragment"
            )
        elif parts.scheme != "https" and not _is_loopback_url(text):
            self._add_problem(
                PREFIX + name, "must use https; plain HTTP is allowed only for loopback addresses"
            )
        return text

    def _choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        text = self._get(name) or default
        if text not in choices:
            self._add_problem(PREFIX + name, f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    def _number(self, name: str, default: int, minimum: int, maximum: int) -> int:
        return self._parsed(
            name,
            default,
            _integer,
            lambda value: minimum <= value <= maximum,
            f"must be an integer from {minimum} to {maximum}",
        )

    def _meeting_defaults(self) -> MeetingDefaults:
        return MeetingDefaults(
            topic=self._parsed(
                "DEFAULT_TOPIC",
                "Zoom meeting",
                str,
                lambda text: len(text) <= 200,
                "must have at most 200 characters",
            ),
            duration_minutes=self._number("DEFAULT_DURATION_MINUTES", 60, 1, 1440),
            timezone=self._parsed(
                "DEFAULT_TIMEZONE",
                "UTC",
                str,
                lambda zone: zone == "UTC" or zone in available_timezones(),
                "must be an IANA time zone such as Europe/Berlin",
            ),
        )

    def _parsed(
        self, name: str, default: _T, read: Callable[[str], _T], valid: Callable[[_T], bool], rule: str
    ) -> _T:
        text = self._get(name)
        if not text:
            return default
        try:
            value = read(text)
            if valid(value):
                return value
        except ValueError:
            pass
        self._add_problem(PREFIX + name, f"{rule}, not {text!r}")
        return default


def _nearest(name: str, known: Mapping[str, Setting]) -> str:
    """Return the most similar setting name, or an empty string."""
    names = [
        setting.removeprefix(PREFIX) for setting in known
    ]  # with the common prefix, all names would be similar
    close = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1)
    return f"{PREFIX}{close[0]}" if close else ""


def _is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes set a variable for a Service named zoomgate.

    Kubernetes sets variables for every Service in all containers; see
    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
    """
    if name.endswith("_PORT") and re.match(r"(?:tcp|udp|sctp)://", value):
        return True
    return _SERVICE_LINK.fullmatch(name) is not None


def _line(text: str, key: str) -> int:
    """Return the line number of a top-level key or table of a TOML document, for error messages."""
    pattern = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[]=.]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _integer(text: str) -> int:
    """Parse a string of digits; `int` alone would also accept `6_0`."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("not an integer")
    return int(text)


def _split(url: str) -> Any:
    """Split an HTTP URL, or return None for any other string."""
    if not re.fullmatch(r"[!-~]+", url):  # urlsplit silently drops some characters
        return None
    try:
        parts = urlsplit(url)
        is_http = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port >= 0)
        )
    except ValueError:
        return None
    return parts if is_http else None


def _is_host(text: str) -> bool:
    """Return whether a string is empty or a valid host. A URL is not a valid host, even if it ends with a port."""
    if ":" not in text:
        return not re.search(r"[\s/?#@\\\[\]]", text)
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _is_loopback_url(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
