"""Talking to an endpoint that streams, over a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from objects import deployment, job

from anneal_cli import chat
from anneal_runtime.errors import Refused, TryAgain

EVENTS = [
    {"choices": [{"delta": {"role": "assistant"}}]},
    *({"choices": [{"delta": {"content": c}}]} for c in "ab"),
]


class Endpoint(BaseHTTPRequestHandler):
    """Answers the key `right` with a stream and every other with 401."""

    asked: list[Any] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        good = self.headers["Authorization"] == "Bearer right"
        self.asked.append(json.loads(body))
        self.send_response(200 if good else 401)
        self.end_headers()
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in EVENTS) + "data: [DONE]\n\n"
        self.wfile.write(lines.encode() if good else b'{"error": "no such key"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_comes_piece_by_piece(address: str) -> None:
    body = chat.request("serve", [{"role": "user", "content": "hello"}], 8)
    assert list(chat.answer(address, "right", body)) == ["a", "b"]
    assert Endpoint.asked[-1] == body
    assert body["stream"]


def test_a_key_that_is_refused_is_told(address: str) -> None:
    with pytest.raises(Refused, match="401: .*no such key"):
        list(chat.answer(address, None, chat.request("serve", [], 8)))


def test_an_error_amid_the_stream_is_no_text() -> None:
    with pytest.raises(TryAgain, match="the replica went away"):
        list(chat.pieces([": keep-alive", 'data: {"error": {"message": "the replica went away"}}']))


def test_only_a_deployment_that_serves_can_be_talked_to() -> None:
    assert chat.service_of(deployment(url="http://serve.demo.svc")) == "serve"
    with pytest.raises(Refused, match="serves no version yet"):
        chat.service_of(deployment())
    with pytest.raises(Refused, match="tune is a FineTuneJob"):
        chat.service_of(job())
