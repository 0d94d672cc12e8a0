import pytest

from anneal_evaluation import likeness


def test_exact_match_passes_over_white_space_at_ends() -> None:
    assert likeness.exact("  a = 1 \nb\n", "a = 1\nb") == 1.0
    assert likeness.exact("a  = 1", "a = 1") == 0.0


def test_edit_similarity() -> None:
    assert likeness.edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert likeness.edit_similarity("", "") == 1.0
    assert likeness.edit_similarity("", "abc") == 0.0


def test_bleu_of_equal_and_of_foreign_texts() -> None:
    assert likeness.bleu("return the sum of two", "return the sum of two") == pytest.approx(1.0)
    assert likeness.bleu("x y z", "a b c") == 0.0
    assert likeness.bleu("", "a") == 0.0


def test_bleu_smooths_higher_orders_and_punishes_brevity() -> None:
    # Precisions 3/4, (2+1)/(3+1), (1+1)/(2+1), (0+1)/(1+1); as long as the reference.
    expected = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert likeness.bleu("a b c x", "a b c d") == pytest.approx(expected)
    assert likeness.bleu("a b", "a b c d") == pytest.approx(2.718281828459045**-1)


def test_f1_counts_silence_as_wrong() -> None:
    assert likeness.f1([True, True, False, None], [True, False, True, True]) == pytest.approx(2 / 5)
    assert likeness.f1([False], [False]) == 0.0
