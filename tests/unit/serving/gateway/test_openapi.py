"""The gateway keeps to its own description, whatever is sent: requests made up from it, and beside it."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
import uvicorn
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from tests.gateway_front import Front

from anneal_serving.gateway import openapi

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    negative_data_rejection,
]
EXAMPLES = 30
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
PATHS = openapi.DOCUMENT["paths"]
CASES = [
    *((path, POSITIVE) for path in sorted(PATHS)),
    *((path, NEGATIVE) for path in sorted(PATHS) if "post" in PATHS[path]),
]


@pytest.fixture
def url(front: Front) -> Iterator[str]:
    """The gateway over HTTP; its lifespan is off, since nobody writes its config."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(front.app, port=port, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "mode"), CASES)
def test_made_up_requests_get_what_the_description_promises(url: str, path: str, mode: Any) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    (method,) = openapi.DOCUMENT["paths"][path]
    operation = schema[path][method.upper()]
    sizes = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @sizes
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    ask()
