"""The quantize stage: a merged model becomes one artifact in TensorRT-LLM checkpoint format, of four bits or float16.

Layers are streamed: the rows' hidden states are carried through the full-precision model block by block,
each block is quantised with what its layers saw, written and forgotten. So memory is bounded by the largest
block, its Gram matrices and the rows' hidden states, whatever the size of the model.
"""

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from anneal_api.modeldeployment import Quantization
from anneal_api.outcome import PublishResult
from anneal_api.runs import DeploymentRun
from anneal_runtime import artifacts, stage, storage
from anneal_runtime.errors import Refused
from anneal_serving import awq, hugging_face, int4, stages
from anneal_serving.awq import Observed, Quantized
from anneal_serving.blocks import Block, Weights
from anneal_serving.checkpoint import (
    CONFIG,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    WEIGHTS,
    Writer,
    config_of,
    tensor_specs,
)
from anneal_serving.decoder import Decoder, from_hugging_face
from anneal_serving.divergence import PROBE, direction

CALIBRATION = "calibration.safetensors"
REFERENCE = "reference.safetensors"
COPIED = ("tokenizer.json", "chat.json", REFERENCE)
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
PROBE_TOKENS = 32
"""62 layers of 7168 make 57 MB."""
ROW_TOKENS = 512
"""A calibration row is cut here: ModelOpt's recipe, and attention stays a small part of the work."""
TOTAL_TOKENS = 16_384
"""A bound on time: carrying rows through a model of 100M weights costs about 4 TFLOP, their Gram matrices as much. With half as
many, errors on other rows are a tenth larger in layers of 1536 inputs."""


def main() -> int:
    """Run the stage as a pod does."""
    cpu_max = CPU_MAX.read_text() if CPU_MAX.exists() else "max"
    torch.set_num_threads(threads(os.environ.get("OMP_NUM_THREADS"), cpu_max))
    return stage.run_stage(run, DeploymentRun)


def threads(asked: str | None, cpu_max: str) -> int:
    """Return the threads to compute on: those asked for, else the whole cores of the pod's CPU limit, else one.

    A pod without a CPU limit sees all of its node's cores, and threads that spin while they wait for each other on
    busy cores burn twice what they compute.

    Args:
        asked: OMP_NUM_THREADS.
        cpu_max: the cgroup's cpu.max: microseconds of CPU in a period, or `max`, and the period.
    """
    if asked:
        return int(asked)
    quota, *period = cpu_max.split()
    return 1 if quota == "max" else max(1, int(quota) // int(period[0]))


def run(config: DeploymentRun) -> PublishResult:
    """Quantise the adopted model and publish the checkpoint."""
    if (known := stages.published(config, "quantize")) is not None:
        return known
    source, manifest = artifacts.open_artifact(config.model.uri, stages.CACHE)
    recipe = config.spec.quantization
    rows = (
        calibration_rows(calibration_path(config, source), recipe.calibration.samples)
        if recipe.method == "awq"
        else []
    )
    with stages.publish(config, "quantize", {"model": config.model.digest}) as publication:
        figures = quantize(source, publication.folder, recipe, rows, probe_row(source))
        for name in COPIED:
            shutil.copyfile(source / name, publication.folder / name)
        publication.metadata.update(
            method=recipe.method,
            groupSize=recipe.group,
            tasks=task_names(manifest.metadata["tasks"]),
            calibrationRows=len(rows),
            calibrationTokens=sum(len(r) for r in rows),
            relativeError=figures.summary(),
        )
    return PublishResult(artifact=publication.published)


def task_names(tasks: list[Any]) -> list[str]:
    """Return the tasks' names in the order that reference rows count them, from a model's metadata."""
    return [task if isinstance(task, str) else str(task["name"]) for task in tasks]


def probe_row(source: Path) -> Tensor:
    """Return the ids whose way through the layers is kept, for a gate that asks where an engine leaves it."""
    with safe_open(source / REFERENCE, framework="pt") as file:
        ids: Tensor = file.get_tensor("input_ids")[: int(file.get_tensor("offsets")[1])]
    return ids[:PROBE_TOKENS].long()


def calibration_path(config: DeploymentRun, source: Path) -> Path:
    """Return the file with the rows to look at."""
    uri = config.spec.quantization.calibration.uri
    folder = storage.local(uri, stages.CACHE) if uri else source
    path = folder / CALIBRATION
    if not path.is_file():
        raise Refused(
            "NoCalibration",
            f"{uri or config.model.uri} has no {CALIBRATION}; set spec.quantization.calibration.uri to an "
            "artifact that has one, or spec.quantization.method to rtn",
        )
    return path


def calibration_rows(path: Path, samples: int) -> list[Tensor]:
    """Return up to `samples` rows of token ids, spread evenly, cut to ROW_TOKENS.

    Where they would be more than TOTAL_TOKENS, fewer rows are taken, not shorter ones: the first tokens of every row are
    the template's and the question's, and an engine is measured on answers.
    """
    with safe_open(path, framework="pt") as file:
        ids, offsets = file.get_tensor("input_ids").long(), file.get_tensor("offsets").tolist()
    rows = [ids[start:end][:ROW_TOKENS] for start, end in itertools.pairwise(offsets) if end > start]
    chosen = _spread(rows, samples)
    total = sum(len(row) for row in chosen)
    return chosen if total <= TOTAL_TOKENS else _spread(rows, max(1, len(chosen) * TOTAL_TOKENS // total))


def _spread(rows: list[Tensor], count: int) -> list[Tensor]:
    return [rows[i] for i in sorted({i * len(rows) // count for i in range(count)})] if rows else []


@dataclass
class Figures:
    """Relative errors by layer name, one for each block."""

    errors: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Note one layer's relative error."""
        self.errors.setdefault(name, []).append(value)

    def progress(self, layers: int, seconds: float) -> str:
        """Return a line about the layer of `layers` that was added last, and its worst error."""
        name = max(self.errors, key=lambda n: self.errors[n][-1])
        done, worst = len(self.errors[name]), self.errors[name][-1]
        return f"layer {done}/{layers}: {seconds:.1f} s, relative error up to {worst:.5f} ({name})"

    def summary(self) -> dict[str, float]:
        """Return the mean over blocks, by layer name."""
        return {name: round(sum(values) / len(values), 6) for name, values in self.errors.items()}


def quantize(
    source: Path, target: Path, recipe: Quantization, rows: list[Tensor], probe: Tensor | None = None
) -> Figures:
    """Write the checkpoint of the model in `source` to `target`; return what rounding did to it.

    With `probe` (token ids) also what full precision makes of them after every block, as PROBE.
    """
    folder = hugging_face.read_local(source)
    decoder = from_hugging_face(folder.config)
    decoder.check_group(recipe.group)
    weights = Weights(source, folder, _device())
    figures = Figures()
    shadows: dict[str, Tensor] = {}
    (target / CONFIG).write_text(json.dumps(config_of(decoder, recipe.group), indent=2))
    with Writer(target / WEIGHTS, tensor_specs(decoder, recipe.group)) as writer, torch.inference_mode():
        embedding = _write_tables(weights, decoder, writer)
        hidden = [embedding[row] for row in rows]
        states = [] if probe is None else [embedding[probe]]
        del embedding
        for index in range(decoder.layers):
            started = time.monotonic()
            block = Block.load(weights, decoder, index)
            seen = _observe(block, decoder, hidden)
            states += [block.forward(decoder, state, lambda *_: None) for state in states[-1:]]
            shadows |= _shadows(block, index) if probe is not None else {}
            _write_norms(writer, block, index)
            for name, layer in _stored_block(block, seen, recipe):
                _write_linear(writer, f"transformer.layers.{index}.{name}", layer)
                figures.add(name, layer.relative_error)
            print(figures.progress(decoder.layers, time.monotonic() - started), file=sys.stderr, flush=True)
        if probe is not None:
            kept = {"input_ids": probe, "hidden": torch.stack(states[1:]).cpu()} | shadows
            save_file(kept, target / PROBE, {"decoder": json.dumps(asdict(decoder))})
    return figures


def _shadows(block: Block, index: int) -> dict[str, Tensor]:
    """Return every layer's weight times a fixed vector: enough to tell which of them is not the model's."""
    return {
        f"{index}.{name}": (weight @ torch.from_numpy(direction(weight.shape[1])).to(weight.device)).cpu()
        for name, weight in block.linears.items()
    }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _write_tables(weights: Weights, decoder: Decoder, writer: Writer) -> Tensor:
    embedding = weights.tensor("model.embed_tokens.weight")
    writer.write(EMBEDDING, embedding.half().cpu().numpy())
    head = embedding if decoder.tied else weights.tensor("lm_head.weight")
    writer.write(HEAD, head.half().cpu().numpy())
    writer.write(FINAL_NORM, weights.tensor("model.norm.weight").cpu().numpy())
    return embedding


def _observe(block: Block, decoder: Decoder, hidden: list[Tensor]) -> dict[str, Observed]:
    """Carry `hidden` through the block in place; return what each layer saw, by its name."""
    if not hidden:
        return {}
    widths = {name: width for name, (_, width) in decoder.linears().items() if name != "mlp.gate"}
    seen = {name: Observed(width, hidden[0].device) for name, width in widths.items()}
    for at, row in enumerate(hidden):
        hidden[at] = block.forward(decoder, row, lambda name, inputs: seen[name].add(inputs))
    return seen


@dataclass(frozen=True)
class Half:
    """A layer's weight [out, in] in float16, and what that cost."""

    weight: Tensor
    relative_error: float

    @classmethod
    def of(cls, name: str, weight: Tensor) -> "Half":
        """Return float32 `weight` in float16, or refuse one beyond its range."""
        half = weight.half()
        if not half.isfinite().all():
            raise Refused(
                "OutOfRange",
                f"spec.quantization.method: a weight of {name} is beyond float16's 65504; use awq or rtn",
            )
        return cls(half, float((half.float() - weight).square().sum() / weight.square().sum()))


def _stored_block(
    block: Block, seen: dict[str, Observed], recipe: Quantization
) -> Iterator[tuple[str, Quantized | Half]]:
    if recipe.method == "none":
        yield from ((name, Half.of(name, weight)) for name, weight in block.linears.items())
        return
    if recipe.method == "rtn":
        for name, weight in block.linears.items():
            yield name, awq.round_to_nearest(weight, recipe.group_size)
        return
    # mlp.fc and mlp.gate multiply the same input, so they take one factor for it.
    for names in (["attention.qkv"], ["attention.dense"], ["mlp.fc", "mlp.gate"], ["mlp.proj"]):
        weights = [block.linears[name] for name in names]
        yield from zip(names, awq.activation_aware(weights, seen[names[0]], recipe.group_size), strict=True)


def _write_norms(writer: Writer, block: Block, index: int) -> None:
    prefix = f"transformer.layers.{index}."
    writer.write(f"{prefix}input_layernorm.weight", block.input_norm.cpu().numpy())
    writer.write(f"{prefix}post_layernorm.weight", block.post_norm.cpu().numpy())
    if block.qkv_bias is not None:
        writer.write(f"{prefix}attention.qkv.bias", block.qkv_bias.cpu().numpy())


def _write_linear(writer: Writer, name: str, quantized: Quantized | Half) -> None:
    if isinstance(quantized, Half):
        writer.write(f"{name}.weight", quantized.weight.cpu().numpy())
        return
    writer.write(f"{name}.weight", int4.pack(quantized.nibbles.cpu().numpy()))
    writer.write(f"{name}.weights_scaling_factor", quantized.scales.cpu().numpy())
    writer.write(f"{name}.prequant_scaling_factor", quantized.prequant.cpu().numpy())
