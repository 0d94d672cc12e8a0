"""A plan before anything starts is the operator's own arithmetic."""

import pytest
from objects import deployment, job
from rich.console import Console
from tests.model_shapes import SMOLLM2

from anneal_api import sizing
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_cli import planning
from anneal_runtime.errors import Refused

VALUES = {
    "accelerators": [
        {"name": "cpu", "memoryGib": 16},
        {"name": "a10-24g", "memoryGib": 0.5, "resourceName": "g"},
    ]
}


def test_a_run_that_fits_is_told_term_by_term() -> None:
    profiles = planning.profiles_of(VALUES)
    got = planning.need(job(), SMOLLM2, profiles)
    expected = sizing.training(FineTuneJobSpec.model_validate(job()["spec"]), SMOLLM2, profiles[0])
    assert got.arithmetic.startswith(f"{expected.arithmetic}; ")
    assert got.needed == pytest.approx(sum(got.terms.values()))
    console = Console(width=300)
    with console.capture() as printed:
        console.print(planning.render([got]))
    assert "FineTuneJob tune on cpu" in printed.get()
    assert printed.get().splitlines()[-1].startswith("fits: ")


def test_the_time_of_epochs_needs_the_rows_tokens() -> None:
    profiles = planning.profiles_of(VALUES)
    assert "--tokens" in planning.need(job(), SMOLLM2, profiles).arithmetic
    assert "1e+06 tokens take about" in planning.need(job(), SMOLLM2, profiles, 1e6).arithmetic


def test_a_replica_that_is_too_large_does_not_fit() -> None:
    got = planning.need(deployment(), SMOLLM2, planning.profiles_of(VALUES))
    assert not got.fits
    assert "KV cache" in got.terms


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"workers": {"accelerator": "h100"}},
            "spec.workers.accelerator: 'h100' is not .* known are: a10-24g, cpu",
        ),
        ({"adapter": {"rank": 0}}, "tune: (.|\n)*rank"),
    ],
)
def test_what_is_wrong_is_named(spec: dict[str, object], told: str) -> None:
    with pytest.raises(Refused, match=told):
        planning.need(job(**spec), SMOLLM2, planning.profiles_of(VALUES))


@pytest.mark.parametrize("values", [{}, None, {"accelerators": [{"name": "x"}]}])
def test_values_without_profiles_are_refused(values: object) -> None:
    with pytest.raises(Refused, match="--values: "):
        planning.profiles_of(values)


def test_a_file_without_resources_is_refused() -> None:
    assert planning.resources_of([job(), {"kind": "Secret"}, None]) == [job()]
    with pytest.raises(Refused, match="--filename"):
        planning.resources_of([{"kind": "Secret"}])
