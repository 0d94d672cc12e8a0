"""Guides compiled under the engine's own vocabulary, and what is said of those that cannot be."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_model

from anneal_serving.triton import grammar
from anneal_serving.triton.grammar import Compiler, Guide

SIZE = 520
"""More ids than the tokenizer has, as engines pad them."""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiler]:
    folder: Path = write_tiny_model(tmp_path_factory.mktemp("grammar"))
    tokenizer = grammar.tokenizer_of(folder / "tokenizer.json", 2, SIZE)
    made = Compiler(tokenizer, SIZE, 2)
    yield made
    made.close()


@pytest.mark.parametrize(
    "guide",
    [
        Guide("json"),
        Guide("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
        Guide("regex", "[a-z]{3}=[0-9]{2}"),
        Guide("ebnf_grammar", 'root ::= "yes" | "no"'),
    ],
)
def test_every_kind_compiles(compiler: Compiler, guide: Guide) -> None:
    assert compiler.complaint(guide) == ""


@pytest.mark.parametrize(
    ("guide", "text"),
    [
        (Guide("json_schema", '{"type": "nope"}'), 'Unsupported type "nope"'),
        (Guide("json_schema", '{"$ref": "#/$defs/x"}'), "Cannot find field $defs"),
        (Guide("regex", "([a"), "Unclosed"),
        (Guide("ebnf_grammar", "rot := x"), "Unexpected character"),
        (Guide("yaml"), "use json, json_schema, regex, ebnf_grammar"),
    ],
)
def test_a_complaint_says_what_is_wrong_and_names_no_source_file(
    compiler: Compiler, guide: Guide, text: str
) -> None:
    complaint = compiler.complaint(guide)
    assert text in complaint
    assert ".cc" not in complaint


def test_guides_are_compiled_in_a_thread_of_their_own(compiler: Compiler) -> None:
    done, said = threading.Event(), []

    def compiled(complaint: str) -> None:
        said.append((complaint, threading.current_thread() is not threading.main_thread()))
        done.set()

    compiler.submit(Guide("regex", "[ab]+"), compiled)
    assert done.wait(30)
    assert said == [("", True)]
