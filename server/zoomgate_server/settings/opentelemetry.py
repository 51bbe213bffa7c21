"""The standard variables of OpenTelemetry that enable the export of spans and metrics (docs/opentelemetry.md).

The exporters themselves read the other variables. Those that they would log with a secret, or ignore, are checked here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SAMPLERS: Mapping[str, tuple[bool, float | None]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}
"""For each sampler, whether a caller's decision applies, and the ratio of the other traces; None for that of OTEL_TRACES_SAMPLER_ARG."""

_PROTOCOL = "http/protobuf"
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+[ \t]*=[ !#-+\--:<-\[\]-~]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class OpenTelemetry:
    """What is exported with OTLP.

    Attributes:
        sample_ratio: The fraction of the traces to sample.
        parent_based: Whether the caller's sampling decision applies, if there is one.
        metrics_interval: Seconds between two exports of the metrics.
        endpoints: The different addresses to which is exported, which may contain credentials.
    """

    traces: bool = False
    metrics: bool = False
    sample_ratio: float = 1.0
    parent_based: bool = True
    metrics_interval: float = 60.0
    endpoints: tuple[str, ...] = field(default=(), repr=False)


def parse(environ: Mapping[str, str], problems: list[str]) -> OpenTelemetry:
    """Return what is exported; add the problems, one sentence each."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return OpenTelemetry()
    variables = _Variables(environ, problems)
    traces, metrics = variables.is_exported("TRACES"), variables.is_exported("METRICS")
    parent_based, ratio = variables.sampler() if traces else (True, 1.0)
    interval = variables.number("OTEL_METRIC_EXPORT_INTERVAL", "60000", 1, 86_400_000) if metrics else 60_000
    signals = {"TRACES": traces, "METRICS": metrics}
    endpoints = tuple(
        dict.fromkeys(variables.endpoint(signal) for signal, is_exported in signals.items() if is_exported)
    )
    return OpenTelemetry(traces, metrics, ratio, parent_based, interval / 1000, endpoints)


class _Variables:
    def __init__(self, environ: Mapping[str, str], problems: list[str]) -> None:
        self._environ = environ
        self._problems = problems

    def endpoint(self, signal: str) -> str:
        """Return the address to which a signal is exported."""
        return self._environ.get(self._variable(signal, "ENDPOINT")) or "http://localhost:4318"

    def is_exported(self, signal: str) -> bool:
        """Return whether a signal is exported: by request, or because the address of a collector is set."""
        endpoint = self._variable(signal, "ENDPOINT")
        default = "otlp" if self._environ.get(endpoint) else "none"
        if self._choice(f"OTEL_{signal}_EXPORTER", default, ("otlp", "none")) == "none":
            return False
        self._choice(self._variable(signal, "PROTOCOL"), _PROTOCOL, (_PROTOCOL,))
        if not _is_url(self.endpoint(signal)):
            self._reject(f"{endpoint} must be an http or https URL, such as http://collector:4318")
        headers = self._variable(signal, "HEADERS")
        parts = [part.strip() for part in self._environ.get(headers, "").split(",")]
        if not all(_HEADER.fullmatch(part) for part in parts if part):
            # without the value, which usually is a secret
            self._reject(
                f"{headers} must be a list such as name1=value1,name2=value2, with percent-encoded values"
            )
        self._choice(self._variable(signal, "COMPRESSION"), "none", ("none", "gzip", "deflate"))
        self.number(self._variable(signal, "TIMEOUT"), "10", 0.001, 3600)
        return True

    def _variable(self, signal: str, name: str) -> str:
        """Return the variable of a signal if it is set, and otherwise the one of all signals."""
        own = f"OTEL_EXPORTER_OTLP_{signal}_{name}"
        return own if self._environ.get(own) else f"OTEL_EXPORTER_OTLP_{name}"

    def sampler(self) -> tuple[bool, float]:
        """Return whether a caller's decision applies, and the ratio of the other traces."""
        name = self._choice("OTEL_TRACES_SAMPLER", "parentbased_always_on", tuple(_SAMPLERS))
        parent_based, ratio = _SAMPLERS[name]
        return parent_based, self.number("OTEL_TRACES_SAMPLER_ARG", "1", 0, 1) if ratio is None else ratio

    def number(self, variable: str, default: str, smallest: float, largest: float) -> float:
        """Return the number of a variable."""
        text = self._environ.get(variable) or default
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if smallest <= value <= largest:
            return value
        self._reject(f"{variable} must be a number from {smallest} to {largest}, not {text!r}")
        return float(default)

    def _choice(self, variable: str, default: str, values: tuple[str, ...]) -> str:
        value = self._environ.get(variable, "").strip().lower() or default
        if value in values:
            return value
        self._reject(f"{variable} must be {_alternatives(values)}, not {value!r}")
        return default

    def _reject(self, problem: str) -> None:
        if problem not in self._problems:  # several signals may have the same
            self._problems.append(problem)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return False


def _alternatives(values: tuple[str, ...]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else last
