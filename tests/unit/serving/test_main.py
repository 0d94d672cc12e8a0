"""The dispatch knows every stage and answers the rest with its usage."""

import pytest

from anneal_api.outcome import EXIT_CONFIG
from anneal_serving.__main__ import STAGES, main


def test_an_unknown_stage_shows_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["polish"]) == EXIT_CONFIG
    assert main([]) == EXIT_CONFIG
    assert "inspect,quantize,engine,gate,serve,gateway" in capsys.readouterr().err


def test_every_stage_has_a_module() -> None:
    assert set(STAGES) == {"inspect", "quantize", "engine", "gate", "serve", "gateway"}
