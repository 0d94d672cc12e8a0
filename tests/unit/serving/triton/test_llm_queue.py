"""The LLM API's queue over a stand-in of it that runs the tiny model's own weights: answers, ends, cancellation, load."""

import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file

from anneal_api.modeldeployment import Engine, Quantization
from anneal_serving import blocks, engine, gate, inspect_stage, layers, quantize, tensorrt_llm, unified
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.divergence import compare, read_rows
from anneal_serving.triton import generation
from anneal_serving.triton.generation import Generation
from anneal_serving.triton.llm_queue import LlmQueue, sampling
from anneal_serving.triton.load import Load

from ..conftest import World, torch_model

STANDIN = Path(__file__).parents[3] / "standin"
SLOTS = 2
ENGINE = Engine(
    runtime="tensorrt-llm-pytorch", max_batch_size=SLOTS, max_input_length=64, max_sequence_length=128
)


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in full precision, as the engine stage lays it out for the LLM API."""
    target = tmp_path_factory.mktemp("unified")
    quantize.quantize(model_folder, target, Quantization(method="none"), [])
    (target / "engine").mkdir()
    unified.write(Checkpoint(target), target / "engine")
    return target / "engine"


@pytest.fixture
def llm_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, imported under its name."""
    monkeypatch.syspath_prepend(str(STANDIN))
    import tensorrt_llm as api

    yield api
    del sys.modules["tensorrt_llm"]


class Receiver:
    """Keeps what it is given."""

    def __init__(self, gone: bool = False) -> None:
        self.steps: queue.Queue[tuple[list[int], bool, str]] = queue.Queue()
        self.gone = gone

    def tokens(self, ids: list[int], logprobs: list[float], final: bool) -> None:
        self.steps.put((ids, final, ""))

    def failed(self, message: str) -> None:
        self.steps.put(([], True, message))

    def cancelled(self) -> bool:
        return self.gone

    def whole(self) -> tuple[list[int], str]:
        found: list[int] = []
        while True:
            ids, final, error = self.steps.get(timeout=20)
            found += ids
            if final:
                return found, error


@pytest.fixture
def opened(llm_api: Any, folder: Path) -> Iterator[tuple[LlmQueue, list[Load]]]:
    loads: list[Load] = []
    llm = llm_api.LLM(model=str(folder), **tensorrt_llm.llm_arguments(ENGINE, scoring=False))
    made = LlmQueue(llm, llm_api.SamplingParams, SLOTS, loads.append)
    yield made, loads
    made.close()


@contextmanager
def held(made: LlmQueue) -> Iterator[None]:
    """Keep the queue from running anything meanwhile."""
    go = threading.Event()
    made._loop.call_soon_threadsafe(go.wait)
    try:
        yield
    finally:
        go.set()


def test_more_requests_than_slots_get_the_models_own_greedy_tokens(
    opened: tuple[LlmQueue, list[Load]], folder: Path
) -> None:
    made, loads = opened
    prompts = [[5, 9, 40], [77, 3], [200, 201, 202], [9]]
    receivers = [Receiver() for _ in prompts]
    with held(made):
        for prompt, receiver in zip(prompts, receivers, strict=True):
            made.submit(Generation(prompt, 6, frozenset([2]), top_k=1), receiver)
    model = torch_model(folder)
    for prompt, receiver in zip(prompts, receivers, strict=True):
        with torch.no_grad():
            expected = model.generate(
                torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0
            )
        found, error = receiver.whole()
        assert (found, error) == (expected[0, len(prompt) :].tolist(), "")
    assert max(load.active for load in loads) == SLOTS
    assert max(load.waiting for load in loads) >= 2
    assert loads[-1] == Load()


def test_the_token_that_ends_an_answer_is_passed_on(opened: tuple[LlmQueue, list[Load]]) -> None:
    made, _ = opened
    first = Receiver()
    made.submit(Generation([5, 9, 40], 4, frozenset([2]), top_k=1), first)
    token = first.whole()[0][1]
    ended = Receiver()
    made.submit(Generation([5, 9, 40], 4, frozenset([token, 2]), top_k=1), ended)
    assert ended.whole()[0][-1] == token


def test_a_request_nobody_waits_for_frees_its_slot(opened: tuple[LlmQueue, list[Load]]) -> None:
    made, _ = opened
    gone, endless = Receiver(gone=True), Receiver()
    made.submit(Generation([5], 100, frozenset([2]), top_k=1), gone)
    assert gone.whole() == ([], "")
    made.submit(Generation([5], 100_000, frozenset([511]), top_k=1), endless)
    endless.steps.get(timeout=20)
    endless.gone = True
    assert endless.whole()[1] == ""


def test_ready_means_that_every_slot_has_answered(opened: tuple[LlmQueue, list[Load]]) -> None:
    made, loads = opened
    generation.warm_up(made, SLOTS, 128, 2)
    begun = [later.active > earlier.active for earlier, later in itertools.pairwise([Load(), *loads])]
    assert sum(begun) == SLOTS


def test_an_engines_error_is_the_requests_alone(opened: tuple[LlmQueue, list[Load]]) -> None:
    made, _ = opened
    broken, fine = Receiver(), Receiver()
    made.submit(Generation([10_000], 3, frozenset([2]), top_k=1), broken)
    made.submit(Generation([5], 3, frozenset([2]), top_k=1), fine)
    assert "out of bounds" in broken.whole()[1]
    assert len(fine.whole()[0]) == 3


def test_sampling_is_asked_for_by_the_apis_names(llm_api: Any) -> None:
    asked = sampling(Generation([1], 7, frozenset([9, 4]), temperature=0.5, top_k=20, top_p=0.9, seed=3))
    assert llm_api.SamplingParams(**asked).words["stop_token_ids"] == [4, 9]
    assert (asked["end_id"], asked["max_tokens"], asked["temperature"], asked["top_k"]) == (4, 7, 0.5, 20)
    assert "temperature" not in sampling(Generation([1], 7, frozenset([9]), temperature=0))


def test_the_gate_measures_through_the_same_api(llm_api: Any, folder: Path, model_folder: Path) -> None:
    rows = read_rows(model_folder / "reference.safetensors")
    logits = tensorrt_llm.Library(folder, ENGINE).logits
    tallies = {
        0: sum(
            (compare(row, [(0, logits(row.input_ids))]) for row in rows[1:]),
            compare(rows[0], [(0, logits(rows[0].input_ids))]),
        )
    }
    assert gate.summary(tallies, ["python"])["logitKL"] < 1e-5


def test_a_gate_beyond_its_budget_looks_for_the_layer_here_too(llm_api: Any, world: World) -> None:
    limits = {"runtime": "tensorrt-llm-pytorch", "maxInputLength": 64, "maxSequenceLength": 128}
    run = world.run(quantization={"method": "none"}, engine=limits, gate={"maxLogitKL": 1e-12})
    run = run.model_copy(update={"inspection": inspect_stage.run(run)})
    quantize.run(run)
    engine.run(run)
    found = gate.run(run)
    assert found.logit_kl < 1e-5
    assert found.diagnosis.startswith("first diverging layer")
    assert "none of its projections stands out" in found.diagnosis


def test_a_spoiled_projection_and_a_spoiled_engine_are_told_apart(
    llm_api: Any, model_folder: Path, tmp_path: Path
) -> None:
    probe = quantize.probe_row(model_folder)
    quantize.quantize(model_folder, tmp_path, Quantization(method="none"), [], probe)
    sound = opened_from(tmp_path, tmp_path / "sound")
    tensors = load_file(tmp_path / "rank0.safetensors")
    name = "transformer.layers.1.mlp.proj.weight"
    save_file(tensors | {name: tensors[name][::-1].copy()}, tmp_path / "rank0.safetensors")
    of_its_artifact = layers.examine(
        tmp_path, blocks.states, opened_from(tmp_path, tmp_path / "spoiled").logits
    )
    assert of_its_artifact.startswith("first diverging layer 1 of 2")
    assert "its mlp.proj does it" in of_its_artifact
    assert "the engine is at fault" in layers.examine(tmp_path, blocks.states, sound.logits)


def opened_from(checkpoint: Path, folder: Path) -> tensorrt_llm.Library:
    folder.mkdir()
    unified.write(Checkpoint(checkpoint), folder)
    return tensorrt_llm.Library(folder, ENGINE)
