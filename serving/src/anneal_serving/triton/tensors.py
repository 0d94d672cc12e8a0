"""The protocol between gateway and replicas: names and types of the tensors of Triton's tensorrtllm backend.

Both runtimes speak it, so one client serves both. Source: config.pbtxt of `inflight_batcher_llm/tensorrt_llm`
in TensorRT-LLM 1.2. Every tensor has a leading batch dimension of one: a request is one sequence.
"""

from dataclasses import dataclass

MODEL = "tensorrt_llm"
PREPROCESSING = "preprocessing"
POSTPROCESSING = "postprocessing"
ENSEMBLE = "ensemble"
BLS = "tensorrt_llm_bls"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model: `kind` is Triton's type without TYPE_, `dims` leaves out the batch dimension."""

    name: str
    kind: str
    dims: tuple[int, ...] = (1,)
    required: bool = False


INPUT_IDS = Tensor("input_ids", "INT32", (-1,), required=True)
INPUT_LENGTHS = Tensor("input_lengths", "INT32", required=True)
OUTPUT_LENGTH = Tensor("request_output_len", "INT32", required=True)
END_ID = Tensor("end_id", "INT32")
PAD_ID = Tensor("pad_id", "INT32")
STOP_WORDS = Tensor("stop_words_list", "INT32", (2, -1))
"""Row 0: the words' ids one after another; row 1: where each word ends, then -1."""
TEMPERATURE = Tensor("temperature", "FP32")
TOP_K = Tensor("runtime_top_k", "INT32")
TOP_P = Tensor("runtime_top_p", "FP32")
SEED = Tensor("seed", "UINT64")
REPETITION_PENALTY = Tensor("repetition_penalty", "FP32")
PRESENCE_PENALTY = Tensor("presence_penalty", "FP32")
FREQUENCY_PENALTY = Tensor("frequency_penalty", "FP32")
RETURN_LOG_PROBS = Tensor("return_log_probs", "BOOL")
GUIDE_TYPE = Tensor("guided_decoding_guide_type", "STRING")
GUIDE = Tensor("guided_decoding_guide", "STRING")
STREAMING = Tensor("streaming", "BOOL")
EXCLUDE_INPUT = Tensor("exclude_input_in_output", "BOOL")

INPUTS = (
    INPUT_IDS,
    INPUT_LENGTHS,
    OUTPUT_LENGTH,
    END_ID,
    PAD_ID,
    STOP_WORDS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    SEED,
    REPETITION_PENALTY,
    PRESENCE_PENALTY,
    FREQUENCY_PENALTY,
    STREAMING,
    EXCLUDE_INPUT,
)
CPU_INPUTS = (*INPUTS, RETURN_LOG_PROBS, GUIDE_TYPE, GUIDE)
"""The tensorrtllm backend knows these too; they are not asked of it until that has been tried on an accelerator."""

OUTPUT_IDS = Tensor("output_ids", "INT32", (-1, -1))
"""[beams, tokens]: the new tokens of this response when streaming, else all of them."""
SEQUENCE_LENGTH = Tensor("sequence_length", "INT32", (-1,))

OUTPUT_LOG_PROBS = Tensor("output_log_probs", "FP32", (-1, -1))
"""[beams, tokens]: of each of `output_ids` the natural logarithm of its probability, when asked for."""

OUTPUTS = (OUTPUT_IDS, SEQUENCE_LENGTH)
CPU_OUTPUTS = (*OUTPUTS, OUTPUT_LOG_PROBS)
INVALID_GUIDE = "guided_decoding_guide: "
"""How the error of a guide that cannot be compiled begins."""


def stop_words(ids: list[int]) -> list[list[int]]:
    """Return `stop_words_list` [2, words] for single tokens that end a sequence."""
    return [ids, list(range(1, len(ids) + 1))]


def single_stops(rows: list[list[int]]) -> list[int]:
    """Return the ids of `stop_words_list`'s words.

    Raises:
        ValueError: a word of more than one token.
    """
    ids, ends = rows
    bounds = [end for end in ends if end >= 0]
    if bounds != list(range(1, len(bounds) + 1)):
        raise ValueError(
            "stop_words_list: only words of one token; longer stop strings belong to the gateway"
        )
    return ids[: len(bounds)]
