"""Every accepted shape of row, and what a wrong one is told."""

import pytest

from anneal_trainers.formats import PAIRS, WrongRow, detect, to_row

QUESTION, ANSWER = ("user", "q"), ("assistant", "a")


@pytest.mark.parametrize("names", PAIRS)
def test_every_pair_is_a_question_and_an_answer(names: tuple[str, str]) -> None:
    row = {names[0]: "q", names[1]: "a"}
    assert detect(row) == "pair"
    assert to_row(row, "pair").messages == (QUESTION, ANSWER)


def test_a_pair_may_have_a_system_text() -> None:
    row = {"system": "s", "prompt": "q", "answer": "a"}
    assert to_row(row, "pair").messages == (("system", "s"), QUESTION, ANSWER)


@pytest.mark.parametrize(("asks", "answers"), [("human", "bot"), ("user", "assistant"), ("human", "gpt")])
def test_codefuse_rounds_take_all_role_names(asks: str, answers: str) -> None:
    rounds = [{"role": "system", "content": "s"}]
    rounds += [{"role": asks, "content": "q"}, {"role": answers, "content": "a"}] * 2
    row = {"id": 1, "data_name": "x", "chat_rounds": rounds}
    assert detect(row) == "chat_rounds"
    assert to_row(row, "chat_rounds").messages == (("system", "s"), QUESTION, ANSWER, QUESTION, ANSWER)


def test_text_and_group() -> None:
    row = to_row({"text": "t", "group": "module"}, "text")
    assert (row.messages, row.text, row.group) == ((), "t", "module")


@pytest.mark.parametrize(
    ("row", "shape", "told"),
    [
        ([], "text", "expected a JSON object, found list"),
        ({"text": ""}, "text", "expected text to be a string that is not empty"),
        ({"prompt": "q", "output": "a"}, "pair", "expected one of the pairs"),
        ({"prompt": "q", "answer": 3}, "pair", "expected answer to be a string"),
        ({"messages": []}, "messages", "expected messages to be a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "to have a role of"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages", "ending with assistant"),
        (
            {"chat_rounds": [{"role": "bot", "content": "x"}, {"role": "human", "content": "x"}]},
            "chat_rounds",
            "in turn",
        ),
        ({"text": "x", "group": 1}, "text", "expected group to be a string"),
    ],
)
def test_a_wrong_row_is_told_what_was_expected(row: object, shape: str, told: str) -> None:
    with pytest.raises(WrongRow, match=told):
        to_row(row, shape)  # type: ignore[arg-type]


def test_an_unknown_shape_names_the_keys_found() -> None:
    with pytest.raises(WrongRow, match=r"found the keys \['chosen', 'rejected'\]"):
        detect({"rejected": "b", "chosen": "a"})
