"""What the training benchmarks compute of what they measure, and the CUDA path's loops at toy size on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from train import contest, flops, gpu, rows, stall
from train.measure import Job, Result, Rows, Step

from anneal_api.memory import ModelShape

TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 64, "head_dim": 16}


def result(cpu: float, loss: float = 2.0, positions: int = 10, held_out: float = 1.0) -> Result:
    return Result([Step(8, 4, positions, cpu, cpu, loss)] * 3, 1_000_000, held_out)


def test_lengths_are_those_of_the_reference() -> None:
    drawn = rows.lengths(100_000, rows.FULL, seed=0)
    assert drawn.mean() == pytest.approx(687, rel=0.01)
    assert np.percentile(drawn, 95) == pytest.approx(2196, rel=0.02)
    assert drawn.max() == rows.FULL


def test_shorter_rows_keep_the_shares_of_a_pack() -> None:
    small, full = (rows.lengths(100_000, capacity, seed=0).mean() / capacity for capacity in (512, rows.FULL))
    assert small == pytest.approx(full, rel=0.02)


def test_rows_begin_with_a_prompt_that_is_not_learned(tmp_path: Path) -> None:
    sizes = np.asarray([10, 20, 30])
    rows.write(tmp_path, "half", np.arange(100), sizes, seed=0, all_learned=False)
    rows.write(tmp_path, "whole", np.arange(100), sizes, seed=0, all_learned=True)
    half, whole = Rows.load(str(tmp_path), "half"), Rows.load(str(tmp_path), "whole")
    for row, size in enumerate(sizes):
        learned = half[row][1]
        assert 0.25 * size <= np.argmax(learned) <= 0.7 * size
        assert learned[np.argmax(learned) :].all()
        assert whole[row][1].tolist() == [False] + [True] * (size - 1)


def test_a_steps_packs_are_taken_together() -> None:
    job = Job("", "", 8, [[0, 1], [2], [3], [4, 5], [6]], batch=1, packs_a_step=2)
    assert job.steps == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_first_step_counts_for_nothing_and_padding_for_no_token() -> None:
    steps = [Step(8, 4, 16, cpu=100.0), Step(8, 4, 16, cpu=2.0), Step(8, 4, 8, cpu=2.0)]
    found = Result(steps, 0, 0.0)
    assert found.tokens_per_cpu_second == 4.0
    assert found.waste == 1 - 24 / 40


def test_contestants_are_compared_by_medians() -> None:
    found = {"anneal": [result(1.0), result(2.0), result(9.0)]}
    found |= {name: [result(4.0, positions=16)] for name in contest.CONTESTANTS if name != "anneal"}
    shown = {figure.figure: figure for figure in contest.compared(found)}
    assert shown["anneal: tokens per CPU-second"].value == 4.0
    assert shown["tokens per CPU-second over TRL's packing"].value == 2.0
    assert shown["tokens per CPU-second over TRL's packing"].met
    assert shown["TRL grouped: computed positions that are padding"].value == 0.5


def test_losses_are_compared_on_the_same_rows_alone() -> None:
    found = {name: [result(1.0)] for name in contest.CONTESTANTS} | {
        "plain padded": [result(1.0, 2.5, held_out=1.25)]
    }
    shown = {figure.figure: figure.value for figure in contest.agreement(found)}
    assert shown["plain padded: held-out loss differs from ours by"] == 0.25
    assert shown["plain padded: a step's training loss differs from ours by at most"] == 0.5
    other = Result([Step(9, 4, 10, 1.0, 1.0, 2.0)] * 3, 0, 1.0)
    with pytest.raises(AssertionError, match="other rows"):
        contest.agreement(found | {"TRL packing": [other]})


def test_operations_of_a_step_by_hand() -> None:
    shape = ModelShape(
        architecture="LlamaForCausalLM",
        layers=2,
        hidden=10,
        intermediate=20,
        heads=2,
        kv_heads=1,
        head_size=5,
        vocabulary=100,
        max_positions=64,
        tied=True,
    )
    linear = 2 * (10 * 5 * 6 + 3 * 10 * 20)
    adapter = 2 * 3 * (20 + 15 + 15 + 20 + 3 * 30)
    attention = 6 * 2 * 10 * (3**2 + 4**2)
    assert (
        flops.of_step(shape, 3, [3, 4], learned=5)
        == 7 * (4 * linear + 6 * adapter) + 5 * 4 * 1000 + attention
    )


def test_only_devices_of_the_data_sheets_have_a_peak() -> None:
    assert flops.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert flops.peak_of("NVIDIA A10") == 125e12
    assert flops.peak_of("cpu") is None


def test_a_stall_is_both_steps_a_save_touches() -> None:
    walls = [9.0, 1.0, 1.0, 1.2, 1.5, 1.0, 1.0, 1.1, 1.4, 1.0, 1.0, 1.3]
    assert gpu.stall([Step(1, 1, 1, wall=wall) for wall in walls]) == pytest.approx((0.7 + 0.5) / 2)


@pytest.mark.slow
def test_both_loops_of_the_cuda_path_take_the_same_steps(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    work = gpu.make_work(tmp_path, TINY, 64, torch.device("cpu"))
    shown = {figure.figure: figure.value for figure in gpu.figures("toy", work)}
    assert shown["toy: a step's loss differs from the plain loop's by at most"] < 1e-4
    assert "toy anneal: MFU" not in shown
    assert len(work.job.steps) == gpu.STEPS


def test_a_stall_is_what_steps_with_a_save_take_longer_than_steps_in_rounds_without() -> None:
    around = np.asarray([1000.0, 900.0, 0.0, 0.0])
    touched = [np.asarray([[1150.0 + more, 950.0, 500.0, 1.0]] * 3) for more in (0, -100, 300)]
    noise = [np.asarray([[1030.0 + more, 900.0, 0.0, 0.0]] * 3) for more in (0, -50, 500)]
    rounds = [stall.Round(True, during, around) for during in touched]
    rounds += [stall.Round(False, during, around) for during in noise]
    shown = {figure.figure: figure for figure in stall.timings(rounds)}
    assert shown["checkpoint: stall, staging included"].value == pytest.approx(240)
    assert shown["checkpoint: stall, staging included"].met is False
    assert shown["checkpoint: of the stall, waiting for the staging copy"].value == pytest.approx(2)
    assert shown["checkpoint: from its begin until it is written"].value == 3
    assert shown["checkpoint: what all of these take longer"].value == pytest.approx(360)
    assert shown["checkpoint: of that, CPU time of the loop's thread"].value == pytest.approx(150)
    assert shown["checkpoint: CPU time of the thread that copies and writes"].value == pytest.approx(1500)
