"""Packs see no neighbour, evaluation spoils no gradient, trained weights are views of one buffer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anneal_api.finetunejob import Adapter
from anneal_runtime.chat import Encoded
from anneal_trainers.base import model, weights
from anneal_trainers.data import batches, dataset
from anneal_trainers.training.losses import weighted_cross_entropy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> dataset.Split:
    folder = tmp_path_factory.mktemp("split")
    writer = dataset.SplitWriter(np.uint16)
    generator = np.random.default_rng(0)
    for row, length in enumerate((17, 40, 3, 25)):
        ids = generator.integers(3, 512, length).tolist()
        writer.add([Encoded(ids, [place >= 2 for place in range(length)])], row % 2, [bytes(32)], None)
    writer.write(folder, "train")
    return dataset.open_split(folder, "train")


def trainee(tiny: Path, kind: str = "qlora", dropout: float = 0.0) -> model.Trainee:
    adapter = Adapter.model_validate({"type": kind, "rank": 4, "alpha": 8, "dropout": dropout})
    made = model.build(tiny, adapter, 0, CPU)
    # A fresh adapter's B is zero and so has no effect: give it one.
    made.flat.copy_(torch.randn(made.flat.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
    return made


def losses(made: model.Trainee, batch: batches.Batch) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, ones = made.states(batch)[batch.before], torch.ones(len(batch.targets))
    return weighted_cross_entropy(hidden, made.head, batch.targets, ones, made.head_ids, made.head_rows)


def gradient(made: model.Trainee, batch: batches.Batch) -> torch.Tensor:
    made.gradient.zero_()
    made.model.train()
    loss, _ = losses(made, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return made.gradient.clone()


def test_every_linear_layer_is_nf4_with_double_quantisation_and_has_an_adapter(tiny: Path) -> None:
    made = trainee(tiny)
    layers = weights.quantized_layers(made.model)
    kinds = {name.split(".")[-2] for name in layers}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    states = [layer.weight.quant_state for layer in layers.values()]
    assert {(state.quant_type, state.nested, state.state2 is None) for state in states} == {
        ("nf4", True, False)
    }
    assert {layer.compute_dtype for layer in layers.values()} == {model.compute_type(CPU)}
    assert {name.removesuffix(".base_layer") for name in layers} == {n.split(".lora_")[0] for n in made.names}


@pytest.mark.parametrize("kind", ["qlora", "lora"])
def test_a_pack_and_a_padded_batch_give_each_row_the_logits_it_has_alone(
    tiny: Path, split: dataset.Split, kind: str
) -> None:
    made = trainee(tiny, kind)
    rows = np.arange(4)
    with torch.no_grad():
        alone = [model.hidden_states(made.model, batches.pack(split, [r])) for r in rows]
        packed = model.hidden_states(made.model, batches.pack(split, rows))
        padded = model.hidden_states(made.model, batches.pad(split, rows)).reshape(4, 40, -1)
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)
    for row, states in enumerate(alone):
        assert torch.allclose(padded[row, : len(states)], states, atol=1e-5)


def test_packed_padded_and_single_rows_give_one_gradient(tiny: Path, split: dataset.Split) -> None:
    made = trainee(tiny)
    rows = np.arange(4)
    packed, padded = gradient(made, batches.pack(split, rows)), gradient(made, batches.pad(split, rows))
    single = sum(gradient(made, batches.pack(split, [row])) for row in rows)
    assert torch.allclose(packed, padded, atol=1e-4)
    assert torch.allclose(packed, single, atol=1e-4)  # type: ignore[arg-type]
    assert packed.norm() > 0.1


def test_targets_are_learned_tokens_and_know_their_row(split: dataset.Split) -> None:
    for batch in (batches.pack(split, [3, 2, 0]), batches.pad(split, [3, 2, 0])):
        expected = np.concatenate([split.row(row)[0][split.row(row)[1]] for row in (3, 2, 0)])
        assert batch.targets.tolist() == expected.tolist()
        assert np.bincount(batch.rows).tolist() == [23, 1, 15]
        assert batch.ids.reshape(-1)[batch.before + 1].tolist() == expected.tolist()


def test_an_evaluation_pass_between_leaves_gradients_as_they_were(tiny: Path, split: dataset.Split) -> None:
    made = trainee(tiny)
    layers = weights.quantized_layers(made.model)
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers.values())
    batch = batches.pack(split, [0, 1])
    before = gradient(made, batch)
    made.model.eval()
    with torch.no_grad():
        losses(made, batches.pack(split, [2]))
    assert torch.equal(gradient(made, batch), before)


@pytest.mark.parametrize(("told", "threads"), [(None, 1), ("2", 2)])
def test_a_rank_on_a_cpu_has_one_thread_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, told: str | None, threads: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert model.pick_device(0) == CPU
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_flat_buffers_are_the_adapters_own_memory(tiny: Path, split: dataset.Split) -> None:
    made = trainee(tiny)
    assert made.names == sorted(made.names)
    made.flat.fill_(0.5)
    trainable = {n: p for n, p in made.model.named_parameters() if p.requires_grad}
    assert list(made.names) == sorted(trainable)
    assert all((p == 0.5).all() for p in trainable.values())
    gradient(made, batches.pack(split, [0]))
    assert all(p.grad.data_ptr() >= made.gradient.data_ptr() for p in trainable.values())


def test_other_weights_are_used_without_copying_them(tiny: Path, split: dataset.Split) -> None:
    made = trainee(tiny)
    batch = batches.pack(split, [0, 1])
    own, other = made.flat, torch.zeros_like(made.flat)
    with torch.no_grad():
        trained = made.states(batch)
        made.use(other)
        reference = made.states(batch)
        with made.model.disable_adapter():
            assert torch.equal(reference, made.states(batch))
        other.copy_(own)
        assert torch.equal(trained, made.states(batch))
    made.use(own)
    other.fill_(torch.nan)
    assert torch.isfinite(gradient(made, batch)).all()
    assert made.gradient.norm() > 0


@pytest.mark.parametrize(
    ("capability", "kind"),
    [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
    ids=["V100", "T4", "A100", "H100"],
)
def test_bf16_is_computed_in_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kind: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert model.compute_type(torch.device("cuda", 0)) is kind
    assert model.compute_type(CPU) is torch.float32
