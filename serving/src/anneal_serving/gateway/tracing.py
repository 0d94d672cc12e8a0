"""OpenTelemetry: a span for every request, under the caller's when it names one. No prompt, no answer.

Configured by OpenTelemetry's own environment variables and nothing else: OTEL_EXPORTER_OTLP_ENDPOINT (or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) says where spans go, and without it none are made; OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_SDK_DISABLED mean what its specification says. Attributes follow
the semantic conventions for generative AI.
"""

import os
import time
from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from anneal_serving.gateway.telemetry import Record

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configure() -> None:
    """Send spans where the environment says."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    # A quarter of a second and 20 MB that a gateway without traces does not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def begin(name: str, headers: Mapping[str, str]) -> Span:
    """Return the span of a request that has come in."""
    tracer = trace.get_tracer("anneal.gateway")
    return tracer.start_span(name, context=propagate.extract(headers), kind=SpanKind.SERVER)


def end(record: Record) -> None:
    """End the span of a request with what became of it."""
    span = record.span
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "anneal.request_id": record.identity,
            "anneal.version": record.version,
            "anneal.replica": record.replica,
            "anneal.retries": record.retries,
            "anneal.cached": record.cached,
            "http.response.status_code": record.status,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "gen_ai.response.finish_reasons": [record.finish] if record.finish else [],
        }
    )
    began = time.time_ns() - int((time.monotonic() - record.began) * 1e9)
    for event, seconds in (("dispatched", record.queued), ("first token", record.first_token)):
        if seconds is not None:
            span.add_event(event, timestamp=began + int(seconds * 1e9))
    if record.status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
