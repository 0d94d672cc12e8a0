"""Of the rows of a task that are alike one stays, whatever their order; what belongs together has one family."""

import random
from pathlib import Path

from anneal_trainers.corpus.near import Collector
from anneal_trainers.data import duplicates
from anneal_trainers.data.duplicates import Duplicates
from anneal_trainers.data.formats import Row

LONG = "the words of a document that is long enough to be told from every other by its own words " * 2


def find(rows: list[tuple[int, Row]], folder: Path, near: bool = False) -> Duplicates:
    scratch = folder / f"grams-{len(list(folder.iterdir()))}"
    scratch.mkdir()
    collector = Collector(scratch)
    for _, row in rows:
        collector.add("\n".join(row.parts))
    collector.close()
    marked = [
        (task, ("f", number + 1), duplicates.marks(row), number) for number, (task, row) in enumerate(rows)
    ]
    return duplicates.find(marked, [scratch] if near else [])


def test_exact_duplicates_of_a_task_are_one_and_share_a_family_over_tasks(tmp_path: Path) -> None:
    rows = [(0, Row((), "a\n")), (0, Row((), "b")), (0, Row((), "a  \n\n")), (1, Row((), "a"))]
    found = find(rows, tmp_path)
    assert found.kept[0] == found.kept[2] in (0, 2)
    assert (found.kept[1], found.kept[3]) == (1, 3)
    assert found.families[0] == found.families[2] == found.families[3] != found.families[1]
    assert found.copies == {found.kept[0]: 1}


def test_near_duplicates_are_joined_only_when_asked(tmp_path: Path) -> None:
    rows = [(0, Row((), LONG)), (0, Row((), LONG + "and more"))]
    assert find(rows, tmp_path).kept == [0, 1]
    assert len(set(find(rows, tmp_path, near=True).kept)) == 1


def test_the_rows_that_stay_do_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = [(n % 2, Row((), LONG * (n % 5 + 1) + "x " * (n % 3) + " " * n)) for n in range(40)]
    shuffled = random.Random(3).sample(rows, len(rows))
    kept = []
    for order in (rows, shuffled):
        found = find(order, tmp_path, near=True)
        kept.append({(order[number], found.families[number]) for number in found.kept})
    assert kept[0] == kept[1]


def test_groups_join_families_and_drop_nothing(tmp_path: Path) -> None:
    rows = [
        Row((), "a", group="g"),
        Row((), "b", group="g"),
        Row((), "b", group="h"),
        Row((), "c", group="h"),
        Row((), "d"),
    ]
    found = find(list(enumerate(rows)), tmp_path)
    assert found.kept == [0, 1, 2, 3, 4]
    assert len(set(found.families[:4])) == 1
    assert found.families[4] != found.families[0]


def test_a_chat_is_no_duplicate_of_one_with_another_answer_or_other_roles(tmp_path: Path) -> None:
    ask = ("user", "question")
    rows = [
        Row((ask, ("assistant", "one"))),
        Row((ask, ("assistant", "two"))),
        Row((), "question\none"),
        Row((ask, ("assistant", "one")), rejected=(ask, ("assistant", "three"))),
    ]
    assert find([(0, row) for row in rows], tmp_path).kept == [0, 1, 2, 3]
