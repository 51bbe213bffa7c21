"""Structured logging that masks secrets and escapes control characters.

Lines are JSON, or human-readable on a terminal. Log records of libraries (gRPC, aiohttp, asyncio) are processed in the same way, because
they can also contain secrets. For example, aiohttp's server quotes overlong request lines, including authorization codes.
"""

import contextlib
import io
import logging
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson

from zoomgate_server.telemetry.log_writer import LogWriter
from zoomgate_server.telemetry.spans import current_span

CLOSE_SECONDS = 2.0
"""Maximum time to write the queued lines when the process exits."""

REDACTED = "[redacted]"
_SECRET_KEY = re.compile(
    r"(?:token|secret|password|passwd|authorization|cookie|credential|api_?key|private_?key|verifier|ticket|start_url)"
    r"|^(?:code|state|key|zak)$",
    re.IGNORECASE,
)
_SECRET_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 " + REDACTED),
    (
        re.compile(
            r"(?i)\b(code|state|ticket|access_token|refresh_token|client_secret|code_verifier|token|zak|pwd)=[^&\s\"'<>]+"
        ),
        r"\1=" + REDACTED,
    ),
    (
        re.compile(
            r"""(?i)(["'](?:code|state|ticket|[a-z_]*(?:token|secret|password|verifier)|zak)["']\s*:\s*)(["'])(?:(?!\2).)*"""
        ),
        r"\1\2" + REDACTED,
    ),
    (re.compile(r"(/[^\s?\"'<>]*)\?[^\s\"'<>]+"), r"\1?" + REDACTED),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.IGNORECASE), r"\1" + REDACTED + "@"),
)
_MAX_TEXT = 4096
_MAX_DEPTH = 8
_HARMLESS = re.compile(r"[A-Za-z0-9@._-]{0,254}", re.ASCII)
_CLEAN = re.compile(r"[\x20-\x7e]*")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LEVEL_NAMES = {level: name for name, level in _LEVELS.items()}

EventDict = MutableMapping[str, Any]


class Logger:
    """The logger of a source. Events below the configured level are dropped before formatting."""

    def __init__(self, source: str) -> None:
        self._source = source

    def debug(self, event: str, **fields: Any) -> None:
        """Log an event that is needed only to analyze a problem."""
        self.log("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log an event of normal operation."""
        self.log("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log a problem that the service can handle."""
        self.log("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log a failure."""
        self.log("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log a failure with the traceback of the exception that is being handled."""
        self.log("error", event, fields, traceback.format_exc())

    def log(self, level: str, event: str, fields: Mapping[str, Any], exception: str = "") -> None:
        """Log an event with a level and, optionally, the text of a traceback."""
        if _LEVELS[level] < _output.min_level:
            return
        line = {"source": self._source, **fields, "event": event, "level": level}
        if exception:
            line["exception"] = exception.removesuffix("\n")
        write_line({**redact(line), "time": datetime.now(UTC), **current_span.get().log_fields})


def get(name: str) -> Logger:
    """Return the logger of a source."""
    return Logger(name)


@dataclass(slots=True)
class _Output:
    """The destination, minimum level and format of log lines, set by `configure`, and the observer of dropped lines."""

    stream: TextIO
    min_level: int
    to_console_line: Callable[[None, str, EventDict], str] | None = None
    writer: LogWriter | None = None
    on_drop: Callable[[], None] = lambda: None


_output = _Output(sys.stderr, logging.CRITICAL)
_log = get("zoomgate.logs")


def write_call(event: EventDict, level: str) -> None:
    """Write the access log line of a call. For speed, values are neither masked nor escaped.

    All values must already be validated: names, codes, numbers, canonical addresses and valid request IDs.
    """
    if _output.min_level <= _LEVELS[level]:
        event["level"] = level
        event["time"] = datetime.now(UTC)
        event.update(current_span.get().log_fields)
        write_line(event)


def write_line(event: EventDict) -> None:
    """Write an event without masking or escaping, regardless of the level.

    The event must include `level` and `time`, and all values must already be validated. If the stream fails, the line is lost: a full disk
    or a closed pipe must not fail the logged operation.
    """
    stream, writer = _output.stream, _output.writer
    if _output.to_console_line is None:
        line = orjson.dumps(event, default=str, option=orjson.OPT_APPEND_NEWLINE)
    else:
        text = _output.to_console_line(None, event["level"], event)
        line = f"{text}\n".encode(stream.encoding, "backslashreplace")
    if writer is not None:
        if not writer.write(line):
            _output.on_drop()
        return
    try:
        if isinstance(stream, io.TextIOWrapper):  # JSON is UTF-8, whatever the encoding of the stream
            stream.buffer.write(line)
        else:
            stream.write(line.decode())
        stream.flush()
    except (OSError, ValueError):
        pass


@contextlib.contextmanager
def written_in_background() -> Iterator[None]:
    """Within the context, write lines in a separate thread, and drop lines that a slow reader does not read in time."""

    def report_dropped(lines: int) -> None:
        _log.warning("log.lines_dropped", lines=lines)

    try:
        descriptor = _output.stream.fileno()
    except OSError:  # a stream in memory has no slow reader
        yield
        return
    _output.writer = LogWriter(descriptor, report_dropped)
    try:
        yield
    finally:
        if _output.writer.close(CLOSE_SECONDS):  # otherwise, writing would block
            _output.writer = None


def count_dropped(on_drop: Callable[[], None]) -> None:
    """Set the function that is called for each dropped line."""
    _output.on_drop = on_drop


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Configure logging of this process, including libraries. Only the first call has an effect.

    Args:
        level: The minimum level: `debug`, `info`, `warning` or `error`.
        log_format: `json` for one JSON object per line, `console` for human-readable lines, or `auto` for `console` on a terminal.
        stream: The destination. Defaults to standard error.
    """
    if _output.min_level < logging.CRITICAL:
        return
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    _output.stream = stream or sys.stderr
    _output.min_level = _LEVELS[level]
    if log_format == "console":
        from structlog import dev  # noqa: PLC0415 - slow to import, and used only on a terminal

        _output.to_console_line = dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=dev.plain_traceback,
            timestamp_key="time",  # time first, in a readable format
        )
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler()]
    root.setLevel(max(_LEVELS[level], logging.INFO))
    logging.captureWarnings(capture=True)


def redact(event: Mapping[str, Any]) -> dict[str, Any]:
    """Mask secrets by key and by pattern, and escape control and bidirectional characters."""
    return {key: _clean(key, value, 0) for key, value in event.items()}


def plain(text: str) -> str:
    """Escape control characters, mask credentials, and truncate long text."""
    if _HARMLESS.fullmatch(text):
        return text
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "…"
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return escape(text)


def escape(text: str) -> str:
    """Escape characters that a terminal could interpret: control, format and separator characters, including line breaks."""
    if _CLEAN.fullmatch(text):
        return text
    return "".join(
        character
        if unicodedata.category(character)[0] not in "CZ" or character == " "
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _clean(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if _is_secret(key) and value not in ("", (), [], {}):
        return REDACTED
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else hex(value)[:_MAX_TEXT]
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        return plain(value)
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {plain(str(name)): _clean(str(name), inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", inner, depth + 1) for inner in value]
    return plain(value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value))


class _LibraryHandler(logging.Handler):
    """A standard logging handler that writes the records of libraries in the same format."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's mismatch between format and arguments must not fail its caller
            message = str(record.msg)
        # libraries may define levels
        level = min(max(record.levelno // 10 * 10, logging.INFO), logging.ERROR)
        exception = ""
        if record.exc_info and record.exc_info[0] is not None:
            exception = "".join(traceback.format_exception(*record.exc_info))
        Logger(record.name).log(_LEVEL_NAMES[level], message, {}, exception)
