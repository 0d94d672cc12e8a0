"""Licence headers go; other comments, and what an interpreter needs, stay."""

import pytest

from anneal_trainers.corpus.licences import without_header


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Copyright 2020 A\n# All rights reserved.\n\nimport os\n", "import os\n"),
        ("#!/bin/sh\n# SPDX-License-Identifier: MIT\necho\n", "#!/bin/sh\necho\n"),
        ("# -*- coding: utf-8 -*-\n# Licensed under X\nx = 1\n", "# -*- coding: utf-8 -*-\nx = 1\n"),
        ("/*\n * Copyright (c) 2020\n */\npackage a;\n", "package a;\n"),
        ("/* Copyright */\r\n\r\nint a;\n", "int a;\n"),
        (
            "// Licence: MIT\n// more\n\n// Package a does b.\npackage a\n",
            "// Package a does b.\npackage a\n",
        ),
        ("<?php\n/* Copyright */\n$a = 1;\n", "<?php\n$a = 1;\n"),
        ("<!-- Copyright -->\n<p>\n", "<p>\n"),
        ("-- Copyright\nselect 1;\n", "select 1;\n"),
        ("# Says what it does.\nx = 1\n", "# Says what it does.\nx = 1\n"),
        ("#include <a.h>\n/* Copyright */\n", "#include <a.h>\n/* Copyright */\n"),
        ("x = 1\n# Copyright\n", "x = 1\n# Copyright\n"),
        ("", ""),
    ],
)
def test_only_the_licence_goes(text: str, expected: str) -> None:
    assert without_header(text) == expected
