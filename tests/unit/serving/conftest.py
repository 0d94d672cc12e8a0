"""A seeded model artifact whose logits are far from uniform, with the rows that quantise and gate need."""

import ctypes
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.tiny_model import write_tiny_model
from transformers import AutoModelForCausalLM

from anneal_api.artifacts import Producer
from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import DeploymentRun
from anneal_runtime import artifacts
from anneal_runtime.chat import ChatEncoder

TOP = 32
ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = [("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@pytest.fixture(scope="module", autouse=True)
def _own_signal_stack() -> Iterator[None]:
    """Give the thread its signal stack back: of two OpenVINO cores the one that ends last leaves that of the first,
    which is freed, and the next signal of any test in this process would be handled there."""
    libc, stack = ctypes.CDLL(None), SignalStack()
    libc.sigaltstack(None, ctypes.byref(stack))
    yield
    libc.sigaltstack(ctypes.byref(stack), None)


def write_model(folder: Path, **config: object) -> Path:
    """Write the tiny model with linear rope scaling, louder weights, outlier channels and `config` on top."""
    write_tiny_model(folder)
    settings = json.loads((folder / "config.json").read_text()) | {"rope_parameters": ROPE} | config
    settings.pop("rope_theta", None)
    (folder / "config.json").write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if value.ndim == 2:
            weights[name] = value * (2.0 if "embed" in name else 3.0)
        elif "layernorm" in name:
            weights[name] = np.where(np.arange(len(value)) % 40 == 7, 12.0, 1.0).astype(np.float32)
    if settings["architectures"] == ["Qwen2ForCausalLM"]:
        add_biases(weights)
    if not settings["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"][::-1].copy()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def add_biases(weights: dict[str, np.ndarray]) -> None:
    """Give query, key and value a bias, as Qwen2 has."""
    generator = np.random.default_rng(5)
    for name in [n for n in weights if n.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        width = len(weights[name])
        weights[name.replace("weight", "bias")] = generator.standard_normal(width).astype(np.float32)


def torch_model(folder: Path, weights: dict[str, np.ndarray] | None = None) -> torch.nn.Module:
    """Return transformers' model of `folder`, with `weights` put in its place."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def sample_rows(model: torch.nn.Module, count: int, length: int) -> list[list[int]]:
    """Return rows that the model itself wrote, so that its perplexity on them is low."""
    torch.manual_seed(7)
    start = torch.randint(3, 512, (count, 1))
    rows = model.generate(
        start, do_sample=True, max_new_tokens=length - 1, min_new_tokens=length - 1, pad_token_id=0
    )
    return rows.tolist()


def write_rows(folder: Path, model: torch.nn.Module) -> None:
    """Write calibration.safetensors and reference.safetensors as the export stage lays them out."""
    rows = sample_rows(model, 24, 48)
    training, held_out = rows[:16], rows[16:]
    flat = np.array(training, np.int32)
    save_file(
        {"input_ids": flat.ravel(), "offsets": np.arange(0, flat.size + 1, 48, dtype=np.int64)},
        folder / "calibration.safetensors",
    )
    save_file(reference_tensors(model, held_out), folder / "reference.safetensors")


def reference_tensors(model: torch.nn.Module, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Return the reference rows' tensors: every second row is of task 1, the first ten tokens are a prompt."""
    ids = torch.tensor(rows)
    with torch.no_grad():
        logprobs = model(ids).logits.log_softmax(-1)
    top = logprobs.topk(TOP, dim=-1)
    nll = -logprobs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    length = ids.shape[1]
    return {
        "input_ids": ids.flatten().numpy().astype(np.int32),
        "offsets": np.arange(0, ids.numel() + 1, length, dtype=np.int64),
        "task": (np.arange(len(rows)) % 2).astype(np.int32),
        "learned": np.tile(np.arange(length) >= 10, len(rows)).astype(np.uint8),
        "top_ids": top.indices.flatten(0, 1).numpy().astype(np.int32),
        "top_logprobs": top.values.flatten(0, 1).numpy(),
        "tail_logprob": np.log(np.maximum(1e-12, 1 - top.values.exp().sum(-1).flatten().numpy())),
        "nll": torch.nn.functional.pad(nll, (0, 1)).flatten().numpy(),
    }


@dataclass(frozen=True)
class World:
    """A store with one model artifact in it."""

    store: str
    model: ArtifactRef
    folder: Path

    def run(self, **spec: object) -> DeploymentRun:
        """Return the run config of a deployment of the model; `spec` on top of openvino, awq, groups of 32."""
        fields = {
            "model": {"uri": self.model.uri},
            "quantization": {"method": "awq", "groupSize": 32},
            "engine": {"runtime": "openvino", "maxInputLength": 256, "maxSequenceLength": 512},
        } | spec
        return DeploymentRun(
            namespace="team",
            name="demo",
            uid="0000",
            spec=ModelDeploymentSpec.model_validate(fields),
            accelerator=AcceleratorProfile(name="cpu", memory_gib=8, compute_capability="8.6"),
            model=self.model,
            store=self.store,
        )


def publish_model(store: str, source: Path, key: str) -> ArtifactRef:
    """Publish the files of `source` as a model artifact."""
    with artifacts.publishing(store, "team", "model", key, producer=Producer(), inputs={}) as publication:
        for path in source.iterdir():
            (publication.folder / path.name).write_bytes(path.read_bytes())
        publication.metadata["tasks"] = ["python", "text"]
    return publication.published


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with everything an export stage writes."""
    folder = write_model(tmp_path_factory.mktemp("tiny") / "model")
    ChatEncoder.from_pretrained_folder(folder).save(folder)
    write_rows(folder, torch_model(folder))
    return folder


@pytest.fixture(scope="session")
def world(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store with that model published."""
    store = f"file://{tmp_path_factory.mktemp('store')}"
    model = publish_model(store, model_folder, "a" * 64)
    return World(store, model, Path(model.uri.removeprefix("file://")))
