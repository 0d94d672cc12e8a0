"""What the data benchmark plants and how it judges: similarities are exact, and groups are held against them."""

import random

import pytest
from data import __main__ as bench
from data import texts


def written(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(400))


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[texts.Planted]]:
    return texts.with_mutants([written(seed) for seed in range(12)], 4)


def test_mutants_are_as_similar_as_is_said(planted: tuple[list[str], list[texts.Planted]]) -> None:
    documents, pairs = planted
    assert len(pairs) == 12
    for each in pairs:
        one, other = (texts.grams(documents[number]) for number in (each.original, each.mutant))
        assert texts.similarity(one, other) == each.similarity
        assert 0.75 < each.similarity < 1
    least = [sum(each.similarity >= edge for each in pairs) for edge in texts.EDGES[:-1]]
    assert least[0] >= least[1] >= least[2] >= 3


def test_what_was_not_found_and_what_does_not_belong_is_counted(
    planted: tuple[list[str], list[texts.Planted]],
) -> None:
    documents, pairs = planted
    right = list(range(len(documents)))
    for each in pairs:
        right[each.mutant] = each.original
    alone, together = list(range(len(documents))), [0] * len(documents)
    shares = {
        name: bench.recalls("anneal", groups, pairs)[0]
        for name, groups in (("right", right), ("alone", alone))
    }
    assert (shares["right"].value, shares["right"].met) == (1, True)
    assert (shares["alone"].value, shares["alone"].met) == (0, False)
    assert bench.wrong(documents, right) == bench.wrong(documents, alone) == 0
    assert bench.wrong([*documents, written(99)], [*together, 0]) == 1
