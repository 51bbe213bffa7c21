"""Tests for the spans that are exported with OTLP."""

import asyncio
from typing import Any

import pytest

from support.otlp_receiver import otlp_receiver
from zoomgate_server.telemetry.otlp import SpanExporter
from zoomgate_server.telemetry.spans import NOT_RECORDED


async def test_fault_after_a_failure_makes_the_span_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reason remains."""
    async with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        exporter = SpanExporter("1.0.0", ratio=1.0, parent_based=True)
        with exporter.start("call", {}) as span:
            span.fail("declined", is_fault=False)
            span.fail("500")
        await asyncio.to_thread(exporter.close)
    assert receiver.span("call").attributes == {"error.type": "declined", "status": "ERROR"}


def test_span_that_cannot_be_started_is_not_recorded() -> None:
    """The caller continues without a span."""
    exporter = SpanExporter("1.0.0", ratio=1.0, parent_based=True)
    invalid: Any = 7
    assert exporter.start("call", invalid) is NOT_RECORDED
    exporter.close()
