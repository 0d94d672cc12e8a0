"""Spans: one a request, under the caller's, without any text; none where the environment names no collector."""

from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.gateway_front import Front

from anneal_serving.gateway import tracing
from anneal_serving.gateway.replicas import Failed

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is exported; the provider is this test's own, not the process'."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_a_request_is_a_span_under_its_callers(front: Front, spans: InMemorySpanExporter) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://g") as client:
        body = {"model": "tiny", "prompt": "xyzzy"}
        await client.post("/v1/completions", json=body, headers={"traceparent": PARENT})
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["gen_ai.usage.output_tokens"] == len(front.script.steps)
    assert [event.name for event in span.events] == ["dispatched", "first token"]
    assert span.start_time is not None
    assert span.end_time is not None
    assert all(span.start_time - 10**8 <= event.timestamp <= span.end_time for event in span.events)
    assert "xyzzy" not in span.to_json()
    assert "def f" not in span.to_json()


async def test_a_failed_request_is_a_failed_span(front: Front, spans: InMemorySpanExporter) -> None:
    front.script.raises = [Failed("no")]
    await front.chat()
    (span,) = spans.get_finished_spans()
    assert not span.status.is_ok


async def test_without_a_collector_nothing_is_recorded(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    tracing.configure()
    assert not tracing.begin("x", {}).is_recording()
    assert (await front.chat()).is_success
