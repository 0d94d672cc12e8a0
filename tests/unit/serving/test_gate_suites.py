"""Which runtime answers the suites of a gate."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from anneal_api.artifacts import Manifest
from anneal_evaluation.in_process import Prompt
from anneal_serving import suites
from anneal_serving.engine import ENGINE_FOLDER
from anneal_serving.tensorrt_llm import Library

from .conftest import World


class Compiled:
    """TensorRT-LLM's class, answering with the tokens it was asked for."""

    opened = 0

    def __init__(self, model: str, **arguments: Any) -> None:
        assert model.endswith(ENGINE_FOLDER)
        Compiled.opened += 1

    def generate(self, prompts: list[list[int]], asked: list[Any]) -> list[Any]:
        answers = [ids[:1] * each.max_tokens for ids, each in zip(prompts, asked, strict=True)]
        return [types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=ids)]) for ids in answers]


def test_a_compiled_engine_answers_through_its_own_library(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, compiled = types.ModuleType("tensorrt_llm"), types.ModuleType("tensorrt_llm._tensorrt_engine")
    library.SamplingParams = lambda **fields: types.SimpleNamespace(**fields)  # type: ignore[attr-defined]
    compiled.LLM = Compiled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_llm", library)
    monkeypatch.setitem(sys.modules, "tensorrt_llm._tensorrt_engine", compiled)
    run = world.run(engine={"runtime": "tensorrt-llm-engine"})
    manifest = Manifest(kind="engine", key="k", files=[], metadata={"eosIds": [2]})
    library = Library(tmp_path / ENGINE_FOLDER, run.spec.engine)
    answers = suites.engine_answers(run, tmp_path, manifest, library)
    assert Compiled.opened == 0
    assert answers([Prompt((5, 6), 3), Prompt((7,), 1)]) == [[5, 5, 5], [7]]
    answers([Prompt((7,), 1)])
    assert Compiled.opened == 1, "a second one would find no memory on the accelerator"
