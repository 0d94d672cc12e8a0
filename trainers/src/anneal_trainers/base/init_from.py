"""The earlier adapter a run goes on from: found and judged before any weights are loaded. No torch here.

An adapter is a folder in peft's layout, Anneal's own or another's. Its configuration and the header of its
safetensors file, a few kilobytes, say all that must agree: rank, scale, layers and their sizes, and, in
Anneal's own, the digest of the base it was trained on.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anneal_api.finetunejob import Adapter, FineTuneJobSpec
from anneal_api.memory import ModelShape
from anneal_runtime.artifacts import identity, published
from anneal_runtime.errors import Refused
from anneal_runtime.storage import exists, join, resolve
from anneal_trainers.base.base_model import LINEAR

TENSORS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
BASE_DIGEST = "base_digest"
"""Key of the safetensors header's metadata."""
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none",),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "fan_in_fan_out": (False, None),
}
"""What peft's configuration may say: anything else computes something this trainer does not."""
ALTERING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How init_lora_weights begins where peft takes the adapter's first values out of the base's weights."""
_TARGET = re.compile(r"\.(\w+)\.lora_[AB]\.weight$")


@dataclass(frozen=True)
class Initial:
    """What the files of an adapter say of it; `base` is the digest of its base, or empty where unknown."""

    config: dict[str, Any]
    shapes: dict[str, list[int]]
    base: str

    @property
    def targets(self) -> list[str]:
        """The layers that are adapted, whatever pattern the configuration finds them by."""
        return sorted({match[1] for name in self.shapes if (match := _TARGET.search(name))})

    @property
    def added(self) -> list[int]:
        """Ids of tokens whose rows are trained."""
        indices = self.config.get("trainable_token_indices") or {}
        return sorted(indices.get("embed_tokens", []) if isinstance(indices, dict) else indices)


def check(spec: FineTuneJobSpec, base_digest: str, shape: ModelShape, added: Mapping[str, int]) -> str | None:
    """Return the digest of the adapter spec.adapter.initFrom names, None where it names none.

    Args:
        base_digest: of the run's base model.
        shape: of the run's base model.
        added: ids of the tokens this run adds to its base.

    Raises:
        Refused: nothing is there, or it cannot be continued by this run: the field, both values, the remedy.
    """
    uri = spec.adapter.init_from
    if uri is None:
        return None
    initial = read(uri)
    problem = next(problems(initial, spec.adapter, base_digest, shape, sorted(added.values())), None)
    if problem is not None:
        raise Refused("AdapterMismatch", f"spec.adapter.initFrom: {uri}: {problem}")
    return identity(uri)


def read(uri: str) -> Initial:
    """Return what the adapter's configuration and header say.

    Raises:
        Refused: the folder or one of its files is not there.
    """
    for name in (CONFIG_FILE, TENSORS_FILE):
        if not exists(join(uri, name)):
            raise Refused(
                "AdapterNotFound",
                f"spec.adapter.initFrom: {uri} holds no {name}; name an adapter's folder in peft's layout",
            )
    header = _header(join(uri, TENSORS_FILE))
    noted = header.pop("__metadata__", {}).get(BASE_DIGEST, "")
    manifest = published(uri)
    return Initial(
        config=_config(join(uri, CONFIG_FILE)),
        shapes={name: entry["shape"] for name, entry in header.items()},
        base=manifest.inputs.get("base", noted) if manifest else noted,
    )


def problems(
    initial: Initial, adapter: Adapter, base_digest: str, shape: ModelShape, added: list[int]
) -> Iterator[str]:
    """Yield why `adapter` cannot go on from `initial`: each a sentence with both values and the remedy."""
    for key, allowed in PLAIN.items():
        if key in initial.config and initial.config[key] not in allowed:
            yield f"{key} is {initial.config[key]!r} in its {CONFIG_FILE}; only plain LoRA can be continued"
    start = str(initial.config.get("init_lora_weights", True))
    if start.lower().startswith(ALTERING):
        yield (
            f"init_lora_weights is {start!r} in its {CONFIG_FILE}: such an adapter belongs to base weights that peft "
            "altered; save it with peft's path_initial_model_for_weight_conversion, which makes it plain LoRA"
        )
    if initial.base and initial.base != base_digest:
        yield (
            f"it was trained on the base {initial.base}, and spec.baseModel is {base_digest}; "
            "name that base, or an adapter of this one"
        )
    pairs = {
        "rank": (initial.config.get("r"), adapter.rank),
        "alpha": (initial.config.get("lora_alpha"), adapter.alpha),
        "targets": (initial.targets, sorted(adapter.targets or LINEAR)),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            yield f"its {name} is {theirs}, and spec.adapter.{name} is {ours}; set the field to its value"
    expected = _shapes(shape, adapter)
    for name in sorted(expected.keys() | {name for name in initial.shapes if "lora_" in name}):
        theirs, ours = initial.shapes.get(name, "not there"), expected.get(name, "none")
        if theirs != ours:
            yield f"{name} is {theirs}, and this base needs {ours}; name an adapter of this base"
    if initial.added and initial.added != added:
        yield (
            f"it has trained the added tokens {initial.added}, and this run adds {added}; "
            "set spec.tasks[].fim.tokens as it was for that adapter"
        )


def _shapes(shape: ModelShape, adapter: Adapter) -> dict[str, list[int]]:
    """Return the shape of every tensor of an adapter by its name."""
    heads, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    outputs = {"self_attn.q_proj": heads, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
    outputs |= {"mlp.gate_proj": shape.intermediate, "mlp.up_proj": shape.intermediate}
    sizes = {name: (shape.hidden, size) for name, size in outputs.items()}
    sizes |= {"self_attn.o_proj": (heads, shape.hidden), "mlp.down_proj": (shape.intermediate, shape.hidden)}
    return {
        f"base_model.model.model.layers.{layer}.{name}.lora_{part}.weight": size
        for layer in range(shape.layers)
        for name, (inner, outer) in sizes.items()
        if name.split(".")[1] in (adapter.targets or LINEAR)
        for part, size in (("A", [adapter.rank, inner]), ("B", [outer, adapter.rank]))
    }


def _config(uri: str) -> dict[str, Any]:
    filesystem, path = resolve(uri)
    try:
        return dict(json.loads(filesystem.cat_file(path)))
    except (ValueError, TypeError) as error:
        raise Refused(
            "AdapterNotFound", f"spec.adapter.initFrom: {uri} is no JSON object: {error}; copy it again"
        ) from error


def _header(uri: str) -> dict[str, Any]:
    """Return the header of a safetensors file: eight bytes of its length, little endian, then JSON."""
    filesystem, path = resolve(uri)
    size = int.from_bytes(filesystem.cat_file(path, start=0, end=8), "little")
    try:
        return dict(json.loads(filesystem.cat_file(path, start=8, end=8 + size)))
    except ValueError as error:
        raise Refused(
            "AdapterNotFound", f"spec.adapter.initFrom: {uri} is no safetensors file; copy it again"
        ) from error
