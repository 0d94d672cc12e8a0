"""The graph computes what transformers computes with the weights the checkpoint stands for.

All in float32 with activations unquantised, so that only the order of additions differs: logits of up to
4 agree within 1e-4.
"""

from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
import pytest

from anneal_api import memory
from anneal_api.modeldeployment import Quantization
from anneal_serving import openvino_ir, quantize
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.triton import scheduler

from .conftest import torch_model, write_model

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "INFERENCE_NUM_THREADS": "1",
}
TOLERANCE = 1e-4
VARIANTS: dict[str, dict[str, object]] = {
    "llama": {},
    "llama-own-head": {"tie_word_embeddings": False},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
}


class Built:
    """A model, its checkpoint of four bits, and the IR built from that."""

    def __init__(self, folder: Path, config: dict[str, object], method: str = "rtn") -> None:
        source, self.target = write_model(folder / "model", **config), folder / "engine"
        self.target.mkdir()
        recipe = Quantization.model_validate({"method": method, "groupSize": 32})
        quantize.quantize(source, self.target, recipe, [])
        self.checkpoint = Checkpoint(self.target)
        openvino_ir.write(self.checkpoint, self.target)
        self.torch = torch_model(source, dict(self.checkpoint.hugging_face()))
        self.compiled = ov.Core().compile_model(self.target / openvino_ir.MODEL, "CPU", EXACT)

    def expected(self, ids: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.torch(torch.from_numpy(ids)).logits.numpy()


@pytest.fixture(scope="module", params=VARIANTS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp(request.param), VARIANTS[request.param])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """In full precision."""
    return Built(tmp_path_factory.mktemp("full"), VARIANTS["qwen2"], "none")


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 512, (2, 21))


def step(request: ov.InferRequest, ids: np.ndarray, past: int, beams: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """Run `ids` [B, L] after `past` tokens."""
    end = past + ids.shape[1]
    inputs = {
        "input_ids": ids,
        "attention_mask": np.ones((len(ids), end), np.int64),
        "position_ids": np.tile(np.arange(past, end), (len(ids), 1)),
        "beam_idx": np.array(beams, np.int32),
    }
    return request.infer(inputs)["logits"].copy()


def test_logits_equal_those_of_the_reconstructed_weights(built: Built, ids: np.ndarray) -> None:
    expected = built.expected(ids)
    assert np.abs(expected).max() > 4
    assert np.abs(step(built.compiled.create_infer_request(), ids, 0) - expected).max() < TOLERANCE


def test_decoding_with_state_equals_the_full_forward(built: Built, ids: np.ndarray) -> None:
    request = built.compiled.create_infer_request()
    parts = [step(request, ids[:, :6], 0)]
    parts += [step(request, ids[:, i : i + 1], i) for i in range(6, ids.shape[1])]
    assert np.abs(np.concatenate(parts, 1) - built.expected(ids)).max() < TOLERANCE


def test_beams_choose_which_sequence_goes_on(built: Built, ids: np.ndarray) -> None:
    request = built.compiled.create_infer_request()
    step(request, ids[:, :10], 0)
    swapped = step(request, ids[:, 10:11], 10, beams=(1, 0))
    crossed = np.concatenate([ids[::-1, :10], ids[:, 10:11]], 1)
    assert np.abs(swapped - built.expected(crossed)[:, -1:]).max() < TOLERANCE


def test_padding_on_the_left_changes_nothing(built: Built, ids: np.ndarray) -> None:
    real = ids[:1, :8]
    padded = {
        "input_ids": np.concatenate([np.zeros((1, 3), np.int64), real], 1),
        "attention_mask": np.array([[0] * 3 + [1] * 8]),
        "position_ids": np.array([[0] * 3 + list(range(8))]),
        "beam_idx": np.zeros(1, np.int32),
    }
    logits = built.compiled.create_infer_request().infer(padded)["logits"][:, 3:]
    assert np.abs(logits - built.expected(real)).max() < TOLERANCE


def test_linear_layers_stay_four_bits_in_memory(built: Built) -> None:
    layers = [op for op in built.compiled.get_runtime_model().get_ops() if kind(op) == "FullyConnected"]
    types = [op.input(1).get_element_type() for op in layers]
    assert len([t for t in types if t == ov.Type.i4]) == 5 * built.checkpoint.decoder.layers
    assert len(layers) == 5 * built.checkpoint.decoder.layers + 1


def test_full_precision_is_float16_in_the_file_and_equals_transformers(full: Built, ids: np.ndarray) -> None:
    expected = full.expected(ids)
    assert np.abs(step(full.compiled.create_infer_request(), ids, 0) - expected).max() < TOLERANCE
    constants = [
        op for op in ov.Core().read_model(full.target / openvino_ir.MODEL).get_ops() if is_weight(op)
    ]
    assert len(constants) == 5 * full.checkpoint.decoder.layers + 1
    assert {op.get_element_type() for op in constants} == {ov.Type.f16}


def is_weight(op: ov.Node) -> bool:
    return bool(op.get_type_name() == "Constant" and len(op.get_output_shape(0)) == 2)


@pytest.mark.parametrize(("precision", "int8"), [("f16", False), ("u8", True)])
def test_memory_plans_count_the_bytes_that_the_cache_takes(full: Built, precision: str, int8: bool) -> None:
    settings = genai.SchedulerConfig()
    settings.num_kv_blocks = 8
    properties = EXACT | {"KV_CACHE_PRECISION": precision}
    pipeline = genai.ContinuousBatchingPipeline(str(full.target), settings, "CPU", properties)
    one = genai.GenerationConfig()
    one.max_new_tokens = 1
    one.set_eos_token_id(2)
    pipeline.generate([ov.Tensor(np.array([[5]]))], [one])
    tokens = 8 * scheduler.KV_BLOCK
    found = pipeline.get_metrics().kv_cache_size_in_bytes / tokens
    assert found == memory.cache_bytes(full.checkpoint.decoder.shape, int8=int8)


def kind(op: ov.Node) -> str:
    return str(op.get_rt_info()["layerType"].astype(str))


def test_attention_and_its_cache_are_one_node(built: Built) -> None:
    # Else the cache stays float32 whatever it is told, and the gate measures what is not served.
    kinds = [kind(op) for op in built.compiled.get_runtime_model().get_ops()]
    assert kinds.count("ScaledDotProductAttention") == built.checkpoint.decoder.layers
    assert "Softmax" not in kinds


def test_continuous_batching_writes_the_greedy_tokens_of_torch(built: Built, ids: np.ndarray) -> None:
    import torch

    settings = genai.SchedulerConfig()
    settings.num_kv_blocks = 32
    pipeline = genai.ContinuousBatchingPipeline(str(built.target), settings, "CPU", EXACT)
    greedy = genai.GenerationConfig()
    greedy.max_new_tokens, greedy.do_sample, greedy.ignore_eos = 12, False, True
    greedy.set_eos_token_id(2)
    found = pipeline.generate([ov.Tensor(ids[:1]), ov.Tensor(ids[1:])], [greedy, greedy])
    with torch.no_grad():
        prompts = torch.from_numpy(ids)
        expected = built.torch.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
    assert [list(result.m_generation_ids[0]) for result in found] == expected[:, ids.shape[1] :].tolist()
