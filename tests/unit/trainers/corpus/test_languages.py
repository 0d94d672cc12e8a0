"""The language of a file, by name, suffix and first line."""

import pytest

from anneal_trainers.corpus.languages import language


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("src/a.py", "", "python"),
        ("a.PY", "", "python"),
        ("deploy/Dockerfile", "FROM x", "dockerfile"),
        ("Makefile", "", "makefile"),
        ("run", "#!/usr/bin/env python3\n", "python"),
        ("run", "#!/usr/bin/env -S python3.11 -u\n", "python"),
        ("run.unknown", "#!/bin/bash -e\n", "shell"),
        ("run", "#! /usr/bin/node\n", "javascript"),
        ("run", "#!/usr/bin/pythonic\n", None),
        (".py", "", None),
        ("notes", "python", None),
        ("picture.png", "", None),
    ],
)
def test_a_file_has_the_language_of_its_name_else_of_its_first_line(
    path: str, text: str, expected: object
) -> None:
    assert language(path, text) == expected
