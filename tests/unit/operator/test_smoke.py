"""`helm test` follows a job and an endpoint to an answer, tells what does not work, and leaves nothing behind."""

import http.server
import json
import threading
from datetime import timedelta

import pytest
from world import NAMESPACE, World, deployment_inspected, failed, finetunejob, inspected

from anneal_operator import smoke


class Installation:
    """A world with an operator; `wait` lets both resources be looked at, and the nodes work."""

    def __init__(self) -> None:
        self.world = World()
        self.inspections = {"FineTuneJob": inspected(), "ModelDeployment": deployment_inspected()}
        self.asked: list[str] = []

    def wait(self, seconds: float) -> None:
        world = self.world
        kind = "ModelDeployment" if world.server.names("ModelDeployment") else "FineTuneJob"
        world.player.default["inspect"] = self.inspections[kind]
        world.turn(kind, smoke.NAME)
        world.player.play()
        world.now += timedelta(seconds=seconds)

    def ask(self, url: str) -> str:
        self.asked.append(url)
        return "abcabc"

    def check(self) -> str:
        return smoke.check(self.world.server, NAMESPACE, "trial", "a10-24g", self.wait, self.ask)

    def left(self) -> list[str]:
        self.world.server.collect()
        return [*self.world.server.names("FineTuneJob"), *self.world.server.names("ModelDeployment")]


def test_what_works_answers_and_leaves_nothing() -> None:
    there = Installation()
    assert there.check() == "abcabc"
    assert there.asked == [f"http://{smoke.NAME}.{NAMESPACE}.svc"]
    stages = [stage for stage, _ in there.world.player.played]
    assert {"prepare", "train", "export", "quantize", "engine", "gate"} <= set(stages)
    assert there.left() == []


def test_a_stage_that_fails_is_told_in_its_own_words() -> None:
    there = Installation()
    there.inspections["FineTuneJob"] = failed("Refused", "NotFound", "pvc://trial/trial/base is not there")
    with pytest.raises(smoke.Fault, match=r"Inspected NotFound: .*is not there"):
        there.check()
    assert there.asked == []
    assert there.left() == []


def test_no_operator_no_answer() -> None:
    there, waited = Installation(), list[float]()
    with pytest.raises(smoke.Fault, match="no operator"):
        smoke.check(there.world.server, NAMESPACE, "trial", "cpu", waited.append, there.ask)
    assert smoke.ANSWERED < sum(waited) < 2 * smoke.ANSWERED
    assert there.left() == []


def test_what_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smoke.LIMITS, "FineTuneJob", 100.0)
    there = Installation()
    del there.world.player.default["train"]
    with pytest.raises(smoke.Fault, match=r"FineTuneJob is not Complete after 100 s"):
        there.check()
    assert there.left() == []


def test_another_test_is_not_disturbed() -> None:
    there = Installation()
    there.world.server.put(finetunejob(smoke.NAME))
    with pytest.raises(smoke.Fault, match=f"delete finetunejob {smoke.NAME}"):
        there.check()
    assert there.left() == [smoke.NAME]


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers every request with the same bytes."""

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.body, self.paths = body, list[str]()


class Answering(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def said_by(body: bytes) -> tuple[str, list[str]]:
    """Return what is made of an answer, and what was asked."""
    with Endpoint(body) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        try:
            return smoke.question(f"http://127.0.0.1:{server.server_port}"), server.paths
        finally:
            server.shutdown()


def chat(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def test_an_answer_is_a_text() -> None:
    assert said_by(chat("defgha")) == ("defgha", ["/v1/chat/completions"])


@pytest.mark.parametrize("body", [chat(" "), b"{}", b"<html>"], ids=["blank", "no choices", "no JSON"])
def test_anything_else_is_none(body: bytes) -> None:
    with pytest.raises(smoke.Fault, match="with nothing|does not answer as it should"):
        said_by(body)


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(smoke.Fault, match="does not answer"):
        smoke.question("http://127.0.0.1:9")
