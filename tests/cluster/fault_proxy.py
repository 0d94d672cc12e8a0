"""A proxy between one operator and the API server: passes everything on, until a test says otherwise."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.cluster.own_server import OwnServer

WRITES = ("POST", "PUT", "PATCH", "DELETE")
FORWARDED = ("accept", "authorization", "content-type")


@dataclass(frozen=True)
class Request:
    """What was asked, and when, on the clock of this machine."""

    at: float
    method: str
    path: str

    @property
    def watches(self) -> bool:
        return "watch=true" in self.path

    @property
    def writes(self) -> bool:
        return self.method in WRITES


@dataclass(frozen=True)
class Refusal:
    """An answer instead of the server's; `seconds` are what it tells to wait."""

    status: int
    reason: str
    seconds: int | None = None

    def body(self) -> bytes:
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status}
        return json.dumps({**said, "reason": self.reason, "message": "a test says so"}).encode()


Fault = Callable[[Request], Refusal | None]


def nothing(_: Request) -> Refusal | None:
    return None


class FaultProxy:
    """`fault` answers in the server's place; `cut` drops all connections and takes no new ones; `mute` lets them stand
    and delivers nothing."""

    def __init__(self, server: OwnServer) -> None:
        self.server = server
        self.fault: Fault = nothing
        self._mute: Callable[[Request], bool] = lambda _: False
        self.passed: list[Request] = []
        """Requests that reached the API server."""
        self._cut = False
        self._open: set[socket.socket] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                proxy._open.add(self.connection)

            def finish(self) -> None:
                proxy._open.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def do_GET(self) -> None:
                with suppress(OSError, http.client.HTTPException):
                    proxy._answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def cut(self) -> None:
        """Partition: every connection ends, and each new one at once."""
        self._cut = True
        self.drop()

    def heal(self) -> None:
        """End all faults."""
        self._cut, self._mute, self.fault = False, lambda _: False, nothing

    def mute(self, which: Callable[[Request], bool]) -> None:
        """Deliver nothing of some requests, those under way included, until it is healed."""
        self._mute = which

    def drop(self) -> None:
        """End all connections there are, watches too; new ones are taken."""
        for held in list(self._open):
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._http.shutdown()
        self._http.server_close()

    def written(self, since: float) -> list[str]:
        """Return the writes that reached the API server after a moment."""
        return [f"{r.method} {r.path}" for r in self.passed if r.writes and r.at > since]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(time.time(), handler.command, handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        refusal = self.fault(request)
        if self._cut or self._waits(request):
            handler.close_connection = True
        elif refusal is not None:
            self._refuse(handler, request, refusal)
        else:
            self.passed.append(request)
            self._pass(handler, request, body)

    def _waits(self, request: Request) -> bool:
        """Wait while the request is muted; return whether it was."""
        waited = self._mute(request)
        while self._mute(request):
            time.sleep(0.1)
        return waited

    def _refuse(self, handler: BaseHTTPRequestHandler, request: Request, refusal: Refusal) -> None:
        body = refusal.body()
        late = request.watches and refusal.status == 410
        if late:
            # An expired version is told of inside the stream.
            body = json.dumps({"type": "ERROR", "object": json.loads(body)}).encode() + b"\n"
        handler.send_response(200 if late else refusal.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        if refusal.seconds is not None:
            handler.send_header("Retry-After", str(refusal.seconds))
        handler.end_headers()
        handler.wfile.write(body)

    def _pass(self, handler: BaseHTTPRequestHandler, request: Request, body: bytes) -> None:
        connection = self.server.connection(seconds=400)
        kept = {n: v for n, v in handler.headers.items() if n.lower() in FORWARDED}
        try:
            connection.request(handler.command, handler.path, body or None, kept)
            answer = connection.getresponse()
            handler.send_response(answer.status)
            handler.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            while data := answer.read1(65536):
                if self._waits(request):
                    break
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            handler.wfile.write(b"0\r\n\r\n")
        finally:
            connection.close()
