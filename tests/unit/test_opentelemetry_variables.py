"""Tests for the variables of OpenTelemetry that enable the export of spans and metrics."""

import pytest

from zoomgate_server import settings
from zoomgate_server.settings.opentelemetry import OpenTelemetry

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
TRACES = {"OTEL_TRACES_EXPORTER": "otlp"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (False, False)),
        ({"OTEL_SERVICE_NAME": "zoom"}, (False, False)),
        (ENDPOINT, (True, True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, (True, False)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, (False, True)),
        (TRACES, (True, False)),
        ({"OTEL_METRICS_EXPORTER": " OTLP "}, (False, True)),
        (ENDPOINT | {"OTEL_METRICS_EXPORTER": "none"}, (True, False)),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_SAMPLER": "unknown"}, (False, False)),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": ""}, (True, True)),
    ],
)
def test_exported_signals(environ: dict[str, str], expected: tuple[bool, bool]) -> None:
    """A signal is exported by request, or if the address of a collector is set."""
    config = settings.load(environ).opentelemetry
    assert (config.traces, config.metrics) == expected


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        ("", "", (True, 1.0)),
        ("always_on", "0.5", (False, 1.0)),
        ("always_off", "", (False, 0.0)),
        ("traceidratio", "0.05", (False, 0.05)),
        ("parentbased_always_on", "", (True, 1.0)),
        ("parentbased_always_off", "", (True, 0.0)),
        ("parentbased_traceidratio", "0.05", (True, 0.05)),
        ("parentbased_traceidratio", "", (True, 1.0)),
    ],
)
def test_sampler(sampler: str, argument: str, expected: tuple[bool, float]) -> None:
    environ = TRACES | {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    config = settings.load(environ).opentelemetry
    assert (config.parent_based, config.sample_ratio) == expected


def test_variable_of_a_signal_takes_precedence() -> None:
    own = {"ENDPOINT": "https://collector:4318", "PROTOCOL": "http/protobuf"}
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    for signal in ("TRACES", "METRICS"):
        environ |= {f"OTEL_EXPORTER_OTLP_{signal}_{name}": value for name, value in own.items()}
    config = settings.load(environ).opentelemetry
    assert (config.traces, config.metrics) == (True, True)


@pytest.mark.parametrize(
    "headers", ["", "api-key=s3cret", "Authorization=Bearer s3cret, x-scope = zoom%20gate,", "x=a=b"]
)
def test_valid_headers_are_accepted(headers: str) -> None:
    assert settings.load(ENDPOINT | {"OTEL_EXPORTER_OTLP_HEADERS": headers}).opentelemetry.traces


def test_metrics_interval_is_in_milliseconds() -> None:
    environ = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "15000"}
    assert settings.load(environ).opentelemetry == OpenTelemetry(
        metrics=True, metrics_interval=15.0, endpoints=("http://localhost:4318",)
    )


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER must be otlp or none, not 'jaeger'"),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus"},
            "OTEL_METRICS_EXPORTER must be otlp or none, not 'prometheus'",
        ),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, not 'grpc'",
        ),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be http/protobuf, not 'grpc'",
        ),
        *(
            ({variable: url}, f"{variable} must be an http or https URL, such as http://collector:4318")
            for variable in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
            for url in ("collector:4318", "http:collector", "grpc://collector:4317", "http://collector:x")
        ),
        *(
            (
                ENDPOINT | {variable: headers},
                f"{variable} must be a list such as name1=value1,name2=value2, with percent-encoded values",
            )
            for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
            for headers in (
                "x-key: s3cret",
                "s3cret",
                "x-a=1;x-key=s3cret",
                "x-key=s3crét",
                "a=1,s3cret",
                "=s",
            )
        ),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"},
            "OTEL_EXPORTER_OTLP_COMPRESSION must be none, gzip or deflate, not 'zstd'",
        ),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_TIMEOUT": "0"},
            "OTEL_EXPORTER_OTLP_TIMEOUT must be a number from 0.001 to 3600, not '0'",
        ),
        (
            TRACES | {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
            (
                "OTEL_TRACES_SAMPLER must be always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or"
                " parentbased_traceidratio, not 'jaeger_remote'"
            ),
        ),
        (
            TRACES | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "5%"},
            "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not '5%'",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "nan"},
            "OTEL_METRIC_EXPORT_INTERVAL must be a number from 1 to 86400000, not 'nan'",
        ),
    ],
)
def test_unsupported_value_is_a_problem(environ: dict[str, str], problem: str) -> None:
    """Otherwise, an operator would wait for spans that are never exported."""
    with pytest.raises(settings.SettingsError) as raised:
        settings.load(environ)
    assert raised.value.problems == (problem,)
