"""Every accepted shape of row, and what a wrong one is told."""

from typing import Any

import pytest

from anneal_trainers.data.formats import PAIRS, Messages, WrongRow, detect, to_row

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
        ({"text": "a lone \ud800"}, "text", "expected text to be Unicode text: .*surrogates"),
        ({"text": "x", "group": "\ud800"}, "text", "expected group to be Unicode text"),
    ],
)
def test_a_wrong_row_is_told_what_was_expected(row: object, shape: str, told: str) -> None:
    with pytest.raises(WrongRow, match=told):
        to_row(row, shape)  # type: ignore[arg-type]


def test_an_unknown_shape_names_the_keys_found() -> None:
    with pytest.raises(WrongRow, match=r"found the keys \['chosen', 'refused'\]"):
        detect({"refused": "b", "chosen": "a"})


GOOD, BAD = ("assistant", "good"), ("assistant", "bad")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


FIRST = [message("user", "q"), message("assistant", "a"), message("user", "q2")]
FIRST_READ = (QUESTION, ANSWER, ("user", "q2"))


@pytest.mark.parametrize("name", ["prompt", "question", "instruction", "input"])
def test_a_preference_is_a_chat_with_two_last_answers(name: str) -> None:
    row = {name: "q", "chosen": "good", "rejected": "bad"}
    assert detect(row) == "preference"
    read = to_row(row, "preference")
    assert (read.messages, read.rejected) == ((QUESTION, GOOD), (QUESTION, BAD))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": "s", "prompt": "q"}, (("system", "s"), QUESTION)),
        ({"messages": FIRST}, FIRST_READ),
        ({"prompt": FIRST, "system": "s"}, (("system", "s"), *FIRST_READ)),
        ({"chosen": [*FIRST, message("assistant", "good")]}, FIRST_READ),
        ({"prompt": FIRST, "chosen": [*FIRST, message("assistant", "good")]}, FIRST_READ),
        ({"prompt": "q", "chosen": [message("gpt", "good")]}, (QUESTION,)),
    ],
    ids=["system", "messages", "prompt of messages", "conversations", "both", "answer as a message"],
)
def test_preferences_of_texts_and_of_messages_are_one(row: dict[str, Any], prompt: Messages) -> None:
    chosen = row.get("chosen", "good")
    rejected = [*chosen[:-1], message("assistant", "bad")] if isinstance(chosen, list) else "bad"
    read = to_row(row | {"chosen": chosen, "rejected": rejected}, "preference")
    assert (read.messages, read.rejected) == ((*prompt, GOOD), (*prompt, BAD))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "q", "chosen": "a"}, "expected rejected to be a string"),
        ({"chosen": "a", "rejected": "b"}, "expected chosen to be an optional system message"),
        (
            {"prompt": "q", "chosen": [message("user", "other"), message("bot", "a")], "rejected": "b"},
            "begin with",
        ),
        (
            {
                "chosen": [message("user", "q"), message("bot", "a")],
                "rejected": [message("user", "p"), message("bot", "a")],
            },
            "differ in their last message alone",
        ),
        ({"messages": [message("bot", "x")], "chosen": "a", "rejected": "b"}, "in turn"),
    ],
)
def test_a_wrong_preference_is_told_what_was_expected(row: object, told: str) -> None:
    with pytest.raises(WrongRow, match=told):
        to_row(row, "preference")


@pytest.mark.parametrize("value", [3, 0.25, None])
def test_a_row_may_say_how_difficult_it_is(value: float | None) -> None:
    row = {"text": "t"} | ({} if value is None else {"difficulty": value})
    assert to_row(row, "text").difficulty == value


@pytest.mark.parametrize("value", ["hard", True, [1], float("nan"), float("inf")])
def test_a_difficulty_that_is_no_number_is_told(value: object) -> None:
    with pytest.raises(WrongRow, match="expected difficulty to be a finite number, found"):
        to_row({"text": "t", "difficulty": value}, "text")
