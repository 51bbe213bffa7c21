"""Tests for docs/opentelemetry.md, which must match the variables and spans of the service."""

import re
from pathlib import Path

from opentelemetry.sdk import environment_variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/opentelemetry.md").read_text(encoding="utf-8")
SOURCE = ROOT / "server/zoomgate_server"


def test_documented_variables_exist() -> None:
    """The variables on the page are those of OpenTelemetry, and all that the service itself reads are on the page."""
    documented = set(re.findall(r"\bOTEL_[A-Z_]+[A-Z]", PAGE))
    standard = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    assert documented <= standard | {"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_PROPAGATORS"}
    read = (SOURCE / "settings/opentelemetry.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(OTEL_[A-Z_]+[A-Z])"', read)) <= documented


def test_documented_attributes_are_those_in_the_source() -> None:
    table = re.search(r"\| span \| kind .*?\n\n", PAGE, re.DOTALL)
    assert table is not None
    prefixes = "rpc|http|url|db|server|error|zoomgate"
    names = re.compile(rf"[`\"]((?:{prefixes})\.[a-z_.]+)[`\"]")
    sources = (
        "telemetry/spans.py",
        "telemetry/otlp.py",
        "rpc/middleware/access_log.py",
        "web/server.py",
        "connections/refresh/refresher.py",
    )
    written = "".join((SOURCE / file).read_text(encoding="utf-8") for file in sources)
    logged = re.compile(r'(?:logs\.get\(|_log\.\w+\(|"source": )"[a-z_.]+"')
    assert set(names.findall(table[0])) == set(names.findall(logged.sub("", written)))
