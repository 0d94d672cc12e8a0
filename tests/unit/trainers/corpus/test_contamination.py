"""Rows that hold a problem of a suite are found; rows that only resemble one are told apart."""

from anneal_trainers.corpus.contamination import Detector, Problem

SOLUTION = """def mean_absolute_gap(values, limit):
    total = 0
    for index, value in enumerate(values):
        if value > limit:
            total += abs(value - limit) * index
        else:
            total -= value // 3
    return total / max(len(values), 1)
"""
PROBLEM = Problem(
    "humaneval",
    "HumanEval/1",
    (SOLUTION, "Return how far the values lie from the limit on average please."),
    "mean_absolute_gap",
)
DETECTOR = Detector([Problem("humaneval", "HumanEval/0", ("too short to tell",), "f"), PROBLEM])


def test_ten_words_in_a_row_are_a_hit_whatever_lies_between_them() -> None:
    text = "Q: return HOW far, the values (lie) from\n\nthe limit on Average?"
    hit = DETECTOR.hit(text)
    assert hit is not None
    assert (hit.problem, hit.shared) == ("HumanEval/1", "return how far the values lie from the limit on")


def test_nine_words_are_none() -> None:
    assert DETECTOR.hit("Return how far the values lie from the limit.") is None
    assert DETECTOR.hit("too short to tell") is None


def test_other_names_give_a_score_and_share_no_words() -> None:
    names = {
        "mean_absolute_gap": "g",
        "values": "xs",
        "limit": "top",
        "total": "s",
        "index": "i",
        "value": "x",
        "3": "7",
    }
    text = SOLUTION
    for old, new in names.items():
        text = text.replace(old, new)
    hit = DETECTOR.hit(text)
    assert hit is not None
    assert (hit.problem, hit.shared) == ("HumanEval/1", "")
    assert hit.score > 0.6


def test_the_name_a_problem_asks_for_is_told() -> None:
    hit = DETECTOR.hit("function mean_absolute_gap(a) { return a }")
    assert hit is not None
    assert (hit.defines, hit.shared, hit.score) == ("mean_absolute_gap", "", 0)
    assert DETECTOR.hit("x = mean_absolute_gap(a)") is None


def test_no_problems_find_nothing() -> None:
    assert Detector([]).hit(SOLUTION) is None
    assert DETECTOR.hit("") is None
