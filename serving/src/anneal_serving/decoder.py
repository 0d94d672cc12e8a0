"""What a decoder of the Llama family is made of, read from Hugging Face's config.json.

Anything a later stage would compute wrongly is refused here, by name: a model that starts and answers
nonsense costs more than one that does not start.
"""

from dataclasses import dataclass, replace
from typing import Any

from anneal_api.memory import ModelShape
from anneal_runtime.errors import Refused

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")
GROUP_SIZES = (128, 64, 32)


@dataclass(frozen=True)
class Decoder:
    """Sizes and constants of a decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    max_positions: int
    epsilon: float
    rope_theta: float
    rope_factor: float
    """Linear position interpolation: positions are divided by it. 1 when there is none."""
    tied: bool
    qkv_bias: bool

    @property
    def query_size(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head_size

    @property
    def shape(self) -> ModelShape:
        """The sizes that memory plans need."""
        return ModelShape(
            architecture=self.architecture,
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_size=self.head_size,
            vocabulary=self.vocabulary,
            max_positions=self.max_positions,
            tied=self.tied,
        )

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of the quantised layers of one block, by their TensorRT-LLM names."""
        return {
            "attention.qkv": (self.query_size + 2 * self.kv_size, self.hidden),
            "attention.dense": (self.hidden, self.query_size),
            "mlp.fc": (self.intermediate, self.hidden),
            "mlp.gate": (self.intermediate, self.hidden),
            "mlp.proj": (self.hidden, self.intermediate),
        }

    def check_group(self, group: int | None) -> None:
        """Raise Refused unless every quantised layer's inputs divide into groups of `group`, if there are any."""
        for name, (_, width) in self.linears().items():
            if group and width % group:
                raise Refused(
                    "GroupSizeDoesNotDivide",
                    f"spec.quantization.groupSize: {group} does not divide the {width} inputs of {name}; "
                    f"{self._remedy()}",
                )

    def share(self, ranks: int) -> "Decoder":
        """Return what one of `ranks` accelerators holds of this decoder: its heads, inner width and vocabulary."""
        return replace(
            self,
            heads=self.heads // ranks,
            kv_heads=self.kv_heads // ranks,
            intermediate=self.intermediate // ranks,
            vocabulary=self.vocabulary // ranks,
        )

    def check_ranks(self, ranks: int, group: int | None) -> None:
        """Raise Refused unless `ranks` accelerators can hold equal parts, each of whole groups of `group`."""
        sizes = {
            "attention heads": self.heads,
            "key heads": self.kv_heads,
            "intermediate size": self.intermediate,
            "vocabulary": self.vocabulary,
        }
        for name, size in sizes.items():
            if size % ranks:
                raise Refused(
                    "RanksDoNotDivide",
                    f"spec.engine.tensorParallelSize: {ranks} does not divide the {name} of {size}; use 1, or "
                    "another number that divides it",
                )
        for name, (_, width) in self.share(ranks).linears().items():
            if group and width % group:
                raise Refused(
                    "GroupSizeDoesNotDivide",
                    f"spec.quantization.groupSize: {group} does not divide the {width} inputs of {name} on each of "
                    f"spec.engine.tensorParallelSize {ranks}; {self.share(ranks)._remedy()}",
                )

    def _remedy(self) -> str:
        widths = {width for _, width in self.linears().values()}
        fits = [str(g) for g in GROUP_SIZES if not any(width % g for width in widths)]
        return f"use {' or '.join(fits)}" if fits else "no group size fits this model"


def from_hugging_face(config: dict[str, Any]) -> Decoder:
    """Return the decoder that Hugging Face's `config` describes.

    Raises:
        Refused: an architecture, activation, attention or rotary variant that is not built.
    """
    architecture = (config.get("architectures") or ["(none)"])[0]
    _require(architecture in ARCHITECTURES, "architectures", architecture, " or ".join(ARCHITECTURES))
    _require(config.get("hidden_act", "silu") == "silu", "hidden_act", config.get("hidden_act"), "silu")
    _require(not config.get("mlp_bias"), "mlp_bias", True, "false")
    _require(not config.get("use_sliding_window"), "use_sliding_window", True, "false")
    qwen = architecture == "Qwen2ForCausalLM"
    _require(qwen or not config.get("attention_bias"), "attention_bias", True, "false")
    theta, factor = _rotary(config)
    heads = int(_field(config, "num_attention_heads"))
    hidden = int(_field(config, "hidden_size"))
    return Decoder(
        architecture=architecture,
        vocabulary=int(_field(config, "vocab_size")),
        hidden=hidden,
        intermediate=int(_field(config, "intermediate_size")),
        layers=int(_field(config, "num_hidden_layers")),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or hidden // heads),
        max_positions=int(_field(config, "max_position_embeddings")),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_factor=factor,
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qwen,
    )


def _field(config: dict[str, Any], name: str) -> Any:
    if name not in config:
        raise Refused("InvalidModel", f"config.json has no {name}; export the model again")
    return config[name]


def _rotary(config: dict[str, Any]) -> tuple[float, float]:
    # transformers 5 writes rope_parameters; before it there were rope_theta and rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    _require(kind in ("default", "linear"), "rope_type", kind, "default or linear")
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    return float(theta), float(rope["factor"]) if kind == "linear" else 1.0


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise Refused(
            "UnsupportedModel",
            f"config.json: {field} is {value}, and Anneal compiles {allowed} only; serve another model",
        )
