import json

import pytest

from anneal_evaluation.harness import asking
from anneal_evaluation.results import Settings
from anneal_runtime.errors import Refused

SAID = {"until": ["\n", "", "b", "c", "d", "e"], "max_gen_toks": 7, "temperature": 0.5}


def test_a_chat_comes_as_json_and_a_text_as_it_is() -> None:
    turns = [{"role": "system", "content": "short"}, {"role": "user", "content": "Say é"}]
    chat = asking.request(json.dumps(turns), SAID, Settings(seed=3), 2, chat=True)
    assert chat.ask.messages == (("system", "short"), ("user", "Say é"))
    assert (chat.max_tokens, chat.temperature, chat.seed) == (7, 0.5, 5)
    text = asking.request("Say é", SAID, Settings(), 0, chat=False)
    assert (text.ask.prefix, text.ask.suffix, text.ask.messages) == ("Say é", None, ())


def test_an_answer_ends_at_its_first_stop_beyond_the_four_that_an_endpoint_takes() -> None:
    stops = asking.stops_of(SAID)
    assert stops == ["\n", "b", "c", "d", "e"]
    assert asking.kept("xyzed\n", stops) == "xyz"
    assert asking.kept("xyz", []) == "xyz"


def test_what_endpoints_are_not_asked_with_is_refused_unless_it_changes_nothing() -> None:
    asking.check("t", SAID | {"top_p": 1.0, "do_sample": True})
    with pytest.raises(Refused, match=r"task t: generation_kwargs.top_p: 0.9 .* leave it out"):
        asking.check("t", SAID | {"top_p": 0.9})
