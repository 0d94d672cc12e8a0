"""Rows of added tokens begin near the mean, are trained, saved, and exported; all other rows stay as they were."""

from pathlib import Path

import peft
import pytest
import torch
from family_models import CPU, logits_alone, pack, plain, rows, trainee, write_family

from anneal_api.finetunejob import Adapter
from anneal_trainers.base import adapters, merge, model
from anneal_trainers.training.losses import weighted_cross_entropy

ADDED = {"<middle>": 323, "<prefix>": 319, "<suffix>": 322}
"""One id the embeddings have a row for, and two beyond them with a gap before."""
IDS = sorted(ADDED.values())
PARTS = [[*row[:3], 322, *row[3:], 319, 323] for row in rows()]


@pytest.fixture(scope="module", params=["smollm2", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied and an untied model."""
    return write_family(tmp_path_factory.mktemp(request.param), request.param)


def logits(made: model.Trainee) -> torch.Tensor:
    with torch.no_grad():
        return made.states(pack(PARTS)) @ made.head.T


def test_rows_begin_at_the_mean_and_apart_the_same_for_a_seed(folder: Path) -> None:
    made = trainee(folder, scale=0.0, added=ADDED)
    assert made.head_ids is not None
    assert made.head_rows is not None
    assert (made.head_ids.tolist(), made.head.shape) == (IDS, (324, 64))
    existing = plain(folder).get_output_embeddings().weight.detach()
    assert torch.equal(made.head[:319], existing[:319])
    distance = (made.head_rows.detach() - existing.mean(0)).norm(dim=1)
    assert (distance < existing.norm(dim=1).mean() / 5).all()
    assert torch.pdist(made.head_rows.detach()).min() > 0.01
    assert torch.equal(made.flat, trainee(folder, scale=0.0, added=ADDED).flat)
    assert made.model.get_base_model().config.vocab_size == 324


def test_only_their_rows_of_the_embeddings_get_gradients_and_they_are_right(folder: Path) -> None:
    made, batch = trainee(folder, "lora", added=ADDED), pack(PARTS)
    ones = torch.ones(len(batch.targets))
    loss, _ = weighted_cross_entropy(
        made.states(batch)[batch.before], made.head, batch.targets, ones, made.head_ids, made.head_rows
    )
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = dict(made.model.named_parameters())
    tokens = {n: p.grad.clone() for n, p in parameters.items() if "token_adapter" in n and p.grad is not None}
    # The plain model with whole embeddings in its graph, by autograd alone.
    whole = merge.merged_model(made.model).requires_grad_(True)
    states = model.hidden_states(whole, batch)[batch.before]
    nll = torch.nn.functional.cross_entropy(
        states @ whole.get_output_embeddings().weight.T, batch.targets, reduction="sum"
    )
    assert torch.allclose(loss.detach(), nll.detach(), rtol=1e-5)
    nll.backward()
    layers = {"embed_tokens": whole.get_input_embeddings(), "lm_head": whole.get_output_embeddings()}
    assert len(tokens) == (1 if whole.config.tie_word_embeddings else 2)
    for name, found in tokens.items():
        layer = next(layer for key, layer in layers.items() if key in name)
        assert torch.allclose(found, layer.weight.grad[IDS], rtol=1e-3, atol=1e-3)
        assert found.norm() > 0.1


def test_they_are_merged_and_exported(folder: Path, tmp_path: Path) -> None:
    made = trainee(folder, added=ADDED)
    expected = logits(made)
    merged = merge.merged_model(made.model.eval())
    assert merge.check_parity(made.model, merged, pack(PARTS)).difference < 2e-5
    merged.save_pretrained(tmp_path)
    again = plain(tmp_path)
    assert again.config.vocab_size == 324
    assert float((logits_alone(again, PARTS) - expected).abs().max()) < 3e-5


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks by a former name
def test_the_adapter_is_read_again_by_us_and_by_peft(folder: Path, tmp_path: Path) -> None:
    made = trainee(folder, "lora", added=ADDED)
    expected = logits(made)
    adapters.write(made.model, tmp_path, "sha256:base")
    fresh = model.assemble(folder, Adapter(type="lora", rank=4, alpha=8), 7, CPU, torch.float32, ADDED)
    adapters.put(fresh, tmp_path)
    found = model.flatten(fresh)
    assert torch.equal(found.flat, made.flat)
    assert torch.equal(logits(found), expected)
    base = plain(folder)
    base.resize_token_embeddings(324, mean_resizing=False)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    known = [
        id_ for id_ in range(324) if id_ not in (320, 321)
    ]  # those two are nobody's: resizing makes them up
    assert float((logits_alone(theirs, PARTS) - expected)[:, known].abs().max()) < 3e-5


def test_another_buffer_brings_its_own_rows(folder: Path) -> None:
    made = trainee(folder, added=ADDED)
    trained, own = logits(made), made.flat
    made.use(torch.zeros_like(own))
    assert torch.equal(made.head[IDS], torch.zeros(3, 64))
    made.use(own)
    assert torch.equal(logits(made), trained)
