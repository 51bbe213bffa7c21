"""The sources of settings: in order of precedence, the command line, the environment, and a file."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from zoomgate_server import file_system
from zoomgate_server.settings.definition import PREFIX, Rejected, Setting
from zoomgate_server.settings.value_types import is_path

CLIENT_VARIABLES = frozenset({"ZOOMGATE_SERVER", "ZOOMGATE_KEY", "ZOOMGATE_CA_FILE"})
"""Environment variables of the client commands, ignored by the server."""

_SERVICE_LINK = re.compile(
    r"[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


_REMOVE = "remove it (docs/configuration.md lists all settings)"


class Sources:
    """The settings as given by the user, and all problems found.

    Attributes:
        names: How the user knows each setting: as given, such as `--listen`, or else by its environment variable.
        rejected: The names of the settings with problems.
        problems: One sentence for each problem.
    """

    def __init__(
        self, settings: Sequence[Setting], environ: Mapping[str, str], options: Mapping[str, str]
    ) -> None:
        self._settings = {setting.name: setting for setting in settings}
        self._texts: dict[str, str] = {}
        self.names = {setting.name: setting.variable for setting in settings}
        self.rejected: set[str] = set()
        self.problems: list[str] = []
        for setting in settings:
            self._add(setting.name, setting.option, options.get(setting.name, ""))
            self._add(setting.name, setting.variable, environ.get(setting.variable, ""))
        self._check_variables(environ)
        if "config" in self and is_path(self._texts["config"]):  # `value` reports an invalid path
            self._add_file(self._texts["config"])

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    def value(self, setting: Setting, earlier: Mapping[str, Any]) -> Any:
        """Return the value of a setting; its default may refer to earlier values. For an invalid value, add its problems.

        The problems do not contain values that may be secrets. An unprintable value may be a file that was pasted instead of its path.
        """
        if setting.name in self:
            text = self._texts[setting.name]
            try:
                return setting.type.parse(text)
            except Rejected as error:
                for problem in error.args:
                    self.reject(setting.name, problem)
            except ValueError:
                actual = f", not {text!r}" if text.isprintable() and not setting.type.secret else ""
                self.reject(setting.name, f"must be {setting.type.values}{actual}")
        return setting.type.parse(setting.default.format(**earlier))

    def reject(self, name: str, problem: str) -> None:
        """Add a problem of a setting, as a predicate such as "must be …"."""
        self.rejected.add(name)
        self.problems.append(f"{self.names[name]} {problem}")

    def _add(self, name: str, given_as: str, text: str) -> None:
        """Add a value, unless it is empty or a source of higher precedence has a value."""
        if text and name not in self:
            self._texts[name] = text
            self.names[name] = given_as

    def _check_variables(self, environ: Mapping[str, str]) -> None:
        known = {setting.variable for setting in self._settings.values()} | CLIENT_VARIABLES
        for name in sorted(environ):
            if name.startswith(PREFIX) and name not in known and not _is_service_link(name, environ[name]):
                nearest = self._nearest(name.removeprefix(PREFIX).lower())
                hint = f"did you mean {self._settings[nearest].variable}?" if nearest else _REMOVE
                self.problems.append(f"unknown setting {name}; {hint}")

    def _nearest(self, name: str) -> str:
        """Return the name of a setting that is misspelled as `name`, or an empty string."""
        return next(iter(difflib.get_close_matches(name, self._settings, n=1, cutoff=0.75)), "")

    def _add_file(self, path: str) -> None:
        """Add the values of a TOML file or of the Velo package's `config.json`."""
        try:
            content = file_system.read_regular(Path(path))
            if path.endswith(".json"):
                self._add_velo(content, path)
            else:
                self._add_toml(content.decode(), path)
        except OSError as error:
            self.reject("config", f"refers to {path}, which cannot be read ({error.strerror})")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.reject("config", f"refers to {path}, which is not valid TOML: {error}")
        except (ValueError, RecursionError):
            self.reject(
                "config",
                f"refers to {path}, which contains a number that is too long, or is nested too deeply",
            )

    def _add_toml(self, text: str, path: str) -> None:
        for key, value in tomllib.loads(text).items():
            location = f"{path}:{_line(text, key)}"
            if key not in self._settings or key == "config":
                nearest = self._nearest(key)
                hint = f"did you mean {nearest}?" if nearest else _REMOVE
                self.problems.append(f"unknown setting {key} in {location}; {hint}")
                continue
            try:
                self._add(key, f"{key} ({location})", _toml_text(key, value))
            except Rejected as error:
                self.problems.append(f"{key} ({location}) {error}")

    def _add_velo(self, content: bytes, path: str) -> None:
        try:
            zoom = orjson.loads(content)["zoom"]
            client_id, redirect_uri = zoom["clientId"], zoom["redirectUri"]
            if not isinstance(client_id, str) or not isinstance(redirect_uri, str):
                raise TypeError
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self.reject(
                "config",
                f'refers to {path}, which must contain {{"zoom": {{"clientId": …, "redirectUri": …}}}}',
            )
            return
        self._add("client_id", f"clientId ({path})", client_id)
        self._add("redirect_uri", f"redirectUri ({path})", redirect_uri)


def _is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes set a variable for a Service named zoomgate.

    Kubernetes sets variables for every Service in all containers; see
    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
    """
    is_url = name.endswith("_PORT") and re.match(r"(?:tcp|udp|sctp)://", value) is not None
    return is_url or _SERVICE_LINK.fullmatch(name) is not None


def _line(text: str, key: str) -> int:
    """Return the line number of a top-level key or table of a TOML document, for error messages."""
    pattern = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[]=.]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _toml_text(key: str, value: Any) -> str:
    """Return a TOML value as the text that the environment variable would have, or raise `Rejected` if there is none."""
    if key == "return_to" and isinstance(value, dict):
        if any("," in f"{target}{url}" for target, url in value.items()):
            raise Rejected("contains a comma; escape it as %2C")
        return ",".join(f"{target}={url}" for target, url in value.items())
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str | int):
        return str(value)
    raise Rejected("must be a string, an integer, true, or false")
