"""Checkpoints are whole or not there; the newest whole one of one's own run is found."""

from pathlib import Path

import pytest
import torch

from anneal_trainers.checkpoint import State, Store


def store(folder: Path, attempt: int = 1, keep: int = 2) -> Store:
    return Store(f"file://{folder}", attempt, "run", keep)


def save(target: Store, step: int, best: int = 0) -> None:
    target.save(State(step=step, best_step=best), {"adapter": torch.full((5,), float(step))})
    target.wait()


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    save(store(tmp_path), 3)
    found = store(tmp_path).newest()
    assert found is not None
    assert found[0].step == 3
    assert found[1]["adapter"].tolist() == [3.0] * 5


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    target = store(tmp_path)
    for step in range(1, 7):
        save(target, step, best=min(step, 2))
    assert sorted(p.name for p in (tmp_path / "attempt-1").iterdir()) == [
        f"step-0000000{n}" for n in (2, 5, 6)
    ]
    assert target.latest == 6


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, file: str, damage: str) -> None:
    target = store(tmp_path)
    save(target, 1)
    save(target, 2)
    path = tmp_path / "attempt-1" / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-1] ^= 0xFF
        path.write_bytes(content)
    found = store(tmp_path).newest()
    assert found is not None
    assert found[0].step == 1
    assert target.at(2) is None


def test_a_changed_number_in_the_state_is_damage_too(tmp_path: Path) -> None:
    target = store(tmp_path)
    save(target, 2, best=2)
    path = tmp_path / "attempt-1" / "step-00000002" / "state.json"
    path.write_text(path.read_text().replace('"best_step": 2', '"best_step": 1'))
    assert target.newest() is None


def test_leftovers_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    runs = tmp_path / "two-step-run"
    for name in (".step-00000001.77", "stacks", "step-notes"):
        (runs / "attempt-1" / name).mkdir(parents=True)
    target = store(runs)
    for step in (1, 2, 3):
        save(target, step)
    assert sorted(p.name for p in (runs / "attempt-1").glob("step-0*")) == ["step-00000002", "step-00000003"]
    assert (found := target.newest()) is not None
    assert found[0].step == 3


def test_a_checkpoint_is_found_by_its_digest_among_several_of_one_step(tmp_path: Path) -> None:
    for attempt, value in ((1, 1.0), (2, 2.0)):
        target = store(tmp_path, attempt)
        target.save(State(step=5), {"adapter": torch.full((5,), value)})
        target.wait()
    first = store(tmp_path, 1).newest()
    assert first is not None
    found = store(tmp_path, 2).at(5, first[0].sha256)
    assert found is not None
    assert found[1]["adapter"].tolist() == [1.0] * 5


def test_an_attempt_reads_earlier_ones_and_no_later_one(tmp_path: Path) -> None:
    save(store(tmp_path, 1), 4)
    save(store(tmp_path, 3), 9)
    found = store(tmp_path, 2).newest()
    assert found is not None
    assert found[0].step == 4


def test_another_configurations_checkpoints_are_not_taken(tmp_path: Path) -> None:
    save(store(tmp_path), 4)
    assert Store(f"file://{tmp_path}", 1, "other", 2).newest() is None


def test_a_failed_write_is_raised_at_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "attempt-1").write_text("a file where the folder must be")
    with pytest.raises(OSError):
        save(store(tmp_path), 1)
