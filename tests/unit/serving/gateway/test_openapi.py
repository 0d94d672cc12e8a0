"""The gateway keeps to its own description, whatever is sent: requests made up from it, and beside it."""

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

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
