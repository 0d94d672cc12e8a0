"""Constrained output on a CPU: OpenVINO GenAI's own guided decoding (xgrammar) under a vocabulary of ours.

GenAI takes a grammar's vocabulary from its tokenizer, of which the engine artifact has none: it is made here from
tokenizer.json, as a graph of one VocabDecoder. A grammar that cannot be compiled ends a step of the whole batch, so
every guide is compiled beforehand, in a thread of its own, on a model that computes nothing; the tokenizer keeps
what was compiled, and the batch finds it there.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino import PartialShape, Type, opset15
from openvino_tokenizers import _get_factory  # type: ignore[import-untyped]
from openvino_tokenizers.utils import create_string_constant_node  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from anneal_serving.vocabulary import token_bytes

_PLACE = re.compile(r"^.*?\.cc:\d+: (?:Check failed: \(.*?\) is false: )?", re.DOTALL)
ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True)
class Guide:
    """What an answer must match; kinds are those of the tensorrtllm backend's `guided_decoding_guide_type`."""

    kind: str
    text: str = ""

    def config(self) -> Any:
        """Return GenAI's form.

        Raises:
            ValueError: an unknown kind.
        """
        if self.kind == "json":
            return genai.StructuredOutputConfig(json_schema=ANY_OBJECT)
        names = {"json_schema": "json_schema", "regex": "regex", "ebnf_grammar": "grammar"}
        if self.kind not in names:
            raise ValueError(f"guided_decoding_guide_type: {self.kind!r}; use json, {', '.join(names)}")
        return genai.StructuredOutputConfig(**{names[self.kind]: self.text})


def tokenizer_of(file: Path, stop_id: int, size: int) -> Any:
    """Return GenAI's tokenizer with the vocabulary of a tokenizer.json and nothing else.

    Args:
        file: the tokenizer.
        stop_id: an id that ends an answer.
        size: ids the engine knows; those beyond the tokenizer's write nothing.
    """
    vocabulary = token_bytes(Tokenizer.from_file(str(file)))
    padded = [*vocabulary, *[b""] * (size - len(vocabulary))][:size]
    with TemporaryDirectory() as folder:
        ov.save_model(_detokenizer(padded, stop_id), Path(folder) / "openvino_detokenizer.xml", False)
        return genai.Tokenizer(folder)


def _detokenizer(vocabulary: list[bytes], stop_id: int) -> ov.Model:
    """Return ids [rows, tokens] -> text [rows] over `vocabulary`."""
    ids = opset15.parameter(PartialShape(["?", "?"]), Type.i64)
    narrow = opset15.convert(ids, Type.i32).output(0)
    *ragged, text = _get_factory().create("VocabDecoder", [narrow, *_strings(vocabulary)]).outputs()
    fused = _get_factory().create("FuzeRagged", ragged).outputs()
    output = opset15.string_tensor_pack(*fused, text).output(0)
    output.tensor.add_names({"string_output"})
    model = ov.Model([output], [ids], "detokenizer")
    model.set_rt_info(str(stop_id), "eos_token_id")
    return model


def _strings(values: list[bytes]) -> list[Any]:
    return list(create_string_constant_node(values))


def _empty_model(vocabulary: int) -> ov.Model:
    """Return a language model of that many ids whose logits are all zero."""
    rows, each_row = PartialShape(["?", "?"]), PartialShape(["?"])
    forms = {
        "input_ids": (rows, Type.i64),
        "attention_mask": (rows, Type.i64),
        "beam_idx": (each_row, Type.i32),
    }
    inputs = []
    for name, (shape, kind) in forms.items():
        inputs.append(opset15.parameter(shape, kind))
        inputs[-1].output(0).tensor.add_names({name})
    sizes = opset15.concat([opset15.shape_of(inputs[0]), opset15.constant([vocabulary], Type.i64)], 0)
    logits = opset15.broadcast(opset15.constant(0.0, Type.f32), sizes).output(0)
    logits.tensor.add_names({"logits"})
    return ov.Model([logits], inputs, "empty")


class Compiler:
    """Compiles guides before they join the batch, one after the other.

    Args:
        tokenizer: the one the batch's pipeline was opened with.
        vocabulary: ids the engine knows.
        stop_id: an id that ends an answer.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop_id: int) -> None:
        self._stop_id = stop_id
        self._pipeline = self._open(tokenizer, vocabulary)
        self._thread = ThreadPoolExecutor(1, "grammar")

    def submit(self, guide: Guide, done: Callable[[str], None]) -> None:
        """Call `done` from the compiler's thread: with what is wrong with the guide, or with nothing."""
        self._thread.submit(lambda: done(self.complaint(guide)))

    def complaint(self, guide: Guide) -> str:
        """Return what is wrong with a guide; empty when it can be used."""
        config = genai.GenerationConfig(max_new_tokens=1)
        config.set_eos_token_id(self._stop_id)
        one = ov.Tensor(np.array([[self._stop_id]], np.int64))
        try:
            config.structured_output_config = guide.config()
            self._pipeline.generate(genai.TokenizedInputs(one, ov.Tensor(np.ones((1, 1), np.int64))), config)
        except (RuntimeError, ValueError) as error:
            return _PLACE.sub("", str(error)).strip()[:500] or "cannot be compiled"
        return ""

    def close(self) -> None:
        """Compile what was submitted, then end the thread."""
        self._thread.shutdown()

    def _open(self, tokenizer: Any, vocabulary: int) -> Any:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "openvino_model.xml"
            ov.save_model(_empty_model(vocabulary), path, False)
            weights = ov.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8))
            defaults = genai.GenerationConfig()
            defaults.set_eos_token_id(self._stop_id)
            return genai.LLMPipeline(
                path.read_text(), weights, tokenizer, "CPU", defaults, ATTENTION_BACKEND="SDPA"
            )
