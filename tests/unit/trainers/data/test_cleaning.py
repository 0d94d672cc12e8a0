"""What becomes of a row: cleaned in all its texts, or left out for the first reason."""

from anneal_api.finetunejob import Data, Filters
from anneal_trainers.data.cleaning import cleaner
from anneal_trainers.data.formats import Row

CHAT = Row(
    (("user", "who is a@x.org?"), ("assistant", "a@x.org is b@x.org")),
    rejected=(("user", "who is a@x.org?"), ("assistant", "b@x.org")),
)


def test_nothing_asked_changes_nothing() -> None:
    assert cleaner(Data()).clean(CHAT).row is CHAT


def test_every_text_of_a_chat_is_redacted_with_the_same_names() -> None:
    cleaned = cleaner(Data(filters=Filters(personal_data="redact"))).clean(CHAT)
    assert cleaned.row.parts == ("who is <EMAIL_1>?", "<EMAIL_1> is <EMAIL_2>", "<EMAIL_2>")
    assert cleaned.row.rejected[0] == cleaned.row.messages[0]
    assert (cleaned.reason, dict(cleaned.personal)) == ("", {"email": 2})


def test_a_row_with_personal_data_is_dropped_where_that_is_asked() -> None:
    cleaned = cleaner(Data(filters=Filters(personal_data="drop"))).clean(CHAT)
    assert (cleaned.reason, cleaned.detail) == ("personalData", "email 2")


def test_a_file_that_is_nothing_but_a_licence_is_dropped() -> None:
    cleaned = cleaner(Data(filters=Filters(license_headers="remove"))).clean(Row((), "# Copyright A\n"))
    assert cleaned.reason == "onlyLicense"


def test_heuristics_are_for_code_and_not_for_chats() -> None:
    with_filters = cleaner(Data(filters=Filters(enabled=True)))
    assert with_filters.clean(CHAT).reason == ""
    assert with_filters.clean(Row((), "x = 1", language="python")).reason == "fewCharacters"


def test_a_problem_of_a_suite_is_dropped_from_an_answer_too() -> None:
    problem = (
        "Check if in given list of numbers, are any two numbers closer to each other than given threshold."
    )
    cleaned = cleaner(Data(decontaminate=["humaneval"])).clean(Row((("user", "hi"), ("assistant", problem))))
    assert cleaned.reason == "contaminated"
    assert cleaned.detail.startswith("humaneval HumanEval/0: check if in given list of numbers are any two")


def test_of_a_language_a_share_stays_chosen_by_content() -> None:
    rows = [Row((), f"x = {n}", language="html" if n % 2 else "go") for n in range(400)]
    sampled = cleaner(Data(filters=Filters(languages={"html": 0.3, "java": 0.0})))
    left = [row for row in rows if sampled.clean(row).reason == "downSampled"]
    assert {row.language for row in left} == {"html"}
    assert 120 < len(left) < 160
    assert left == [row for row in rows if row in left and sampled.clean(row).detail == "html"]
    more = cleaner(Data(filters=Filters(languages={"html": 0.5})))
    assert {row.text for row in left} > {row.text for row in rows if more.clean(row).reason}
    assert sampled.clean(Row((), "class A", language="java")).reason == "downSampled"
    assert sampled.clean(CHAT).reason == ""
