"""Exact duplicates, up to line ends and blank lines."""

from anneal_trainers.corpus.exact import fingerprint


def test_line_ends_trailing_space_and_blank_lines_do_not_count() -> None:
    assert fingerprint(["def f():\n    return 1\n"]) == fingerprint(["def f():  \r\n\r\n    return 1"])


def test_indentation_and_the_place_of_a_part_count() -> None:
    assert fingerprint(["if x:\n  a\nb"]) != fingerprint(["if x:\n  a\n  b"])
    assert fingerprint(["a", "b"]) != fingerprint(["a\nb"])
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
