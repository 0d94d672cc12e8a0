"""The DPO loss of packed pairs is TRL's of the same pairs in a padded batch: loss, log-probabilities, gradient.

TRL runs in an environment of its own, which `scripts/install peers` makes.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anneal_api.finetunejob import Adapter
from anneal_runtime.chat import Encoded
from anneal_trainers.base import model
from anneal_trainers.data.batches import batches
from anneal_trainers.data.dataset import Split, SplitWriter
from anneal_trainers.training import dpo, objective
from anneal_trainers.training.losses import weighted_cross_entropy

ROOT = Path(__file__).parents[4]
PEERS = ROOT / ".venv-peers/bin/python"
PAIRS, RANK, ALPHA, BETA = 7, 4, 8, 0.3
CAPACITY = 160
"""Small enough for the pairs to need several packs."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """Pairs, the trainee that has scored them, and what TRL made of them."""

    trainee: model.Trainee
    preference: objective.Preference
    split: Split
    trl: dict[str, torch.Tensor]


def make_pairs() -> list[dict[str, list[int]]]:
    """Return prompts with two answers each, all of different lengths."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 30, (PAIRS, 3))
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {name: random.integers(3, 512, size).tolist() for name, size in zip(names, row, strict=True)}
        for row in sizes
    ]


def make_split(pairs: list[dict[str, list[int]]]) -> Split:
    """Return a unit of two rows for each pair."""
    writer = SplitWriter(np.uint16)
    for pair in pairs:
        prompt = pair["prompt_ids"]
        answers = [pair["chosen_ids"], pair["rejected_ids"]]
        rows = [Encoded(prompt + a, [False] * len(prompt) + [True] * len(a)) for a in answers]
        writer.add(rows, 0, [bytes(32)] * 2, None)
    return writer.split()


def fill(trainee: model.Trainee, seed: int) -> dict[str, torch.Tensor]:
    """Give the adapter weights that have an effect, B's too, and return them by name."""
    random = torch.Generator().manual_seed(seed)
    trainee.flat.copy_(torch.randn(trainee.flat.shape, generator=random) * 0.05)
    parameters = dict(trainee.model.named_parameters())
    return {name: parameters[name].detach().clone() for name in trainee.names}


@pytest.fixture(scope="module", params=["fresh adapter", "initFrom"])
def case(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("trl")
    shutil.copytree(tiny, folder / "base")
    adapter = Adapter(type="lora", rank=RANK, alpha=ALPHA)
    trainee = model.build(tiny, adapter, 0, torch.device("cpu"))
    if request.param == "initFrom":
        save_file(fill(trainee, seed=1), folder / "start.safetensors")
    preference = objective.Preference(BETA, trainee)
    save_file(fill(trainee, seed=2), folder / "policy.safetensors")
    pairs = make_pairs()
    job = {"rank": RANK, "alpha": ALPHA, "beta": BETA, "pairs": pairs}
    (folder / "job.json").write_text(json.dumps(job))
    assert PEERS.exists(), f"{PEERS} is missing: run scripts/install peers"
    subprocess.run([PEERS, ROOT / "tests/trl_dpo.py", folder], check=True, timeout=300)
    return Case(trainee, preference, make_split(pairs), load_file(folder / "trl.safetensors"))


@pytest.mark.parametrize("packed", [True, False])
def test_loss_and_gradient_are_those_of_trl(case: Case, packed: bool) -> None:
    rows = np.arange(2 * PAIRS)
    weights = torch.from_numpy(case.preference.weights(case.split, rows, "rowMean", np.ones(1))).float()
    case.trainee.gradient.zero_()
    loss, values = 0.0, np.zeros(2 * PAIRS)
    parts = batches(case.split, rows, CAPACITY, packed, case.preference.groups(case.split, rows))
    assert len(parts) > 1
    for batch in parts:
        measured = case.preference.measure(case.trainee, batch, weights)
        measured.loss.backward()
        loss += float(measured.loss.detach())
        values[measured.rows] = measured.values.numpy()
    assert loss == pytest.approx(float(case.trl["loss"]), rel=1e-5)
    scores = [case.trl[name] for name in ("chosen", "rejected", "reference_chosen", "reference_rejected")]
    assert values[::2] == pytest.approx(dpo.pair_losses(*scores, BETA)[0].numpy(), rel=1e-4)
    for name in case.trainee.names:
        ours = case.trainee.model.get_parameter(name).grad
        assert torch.allclose(ours, case.trl[name], rtol=1e-3, atol=1e-5 * float(case.trl[name].abs().max()))


def test_log_probabilities_of_packed_answers_are_those_of_trl(case: Case) -> None:
    rows = np.arange(2 * PAIRS)
    scores = torch.zeros(2 * PAIRS)
    with torch.no_grad():
        for batch in batches(case.split, rows, CAPACITY, True, case.preference.groups(case.split, rows)):
            states = case.trainee.states(batch)[batch.before]
            ones = torch.ones(len(batch.targets))
            _, nll = weighted_cross_entropy(states, case.trainee.head, batch.targets, ones)
            scores.index_add_(0, torch.from_numpy(batch.rows), -nll)
    assert torch.allclose(scores[::2], case.trl["chosen"], rtol=1e-5)
    assert torch.allclose(scores[1::2], case.trl["rejected"], rtol=1e-5)


def test_margins_are_those_of_trl(case: Case) -> None:
    scores = [case.trl[name] for name in ("chosen", "rejected", "reference_chosen", "reference_rejected")]
    margin = dpo.margins(*scores, BETA)
    assert float(margin.mean()) == pytest.approx(float(case.trl["margin"]), rel=1e-4)
    preferred = float((margin > 0).float().mean())
    assert preferred == pytest.approx(float(case.trl["accuracy"]))
    assert 0 < preferred < 1
