"""/healthz: answers whether this process leads or stands by as it should, and why not."""

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Check = Callable[[], str]
"""Returns what is wrong; empty when nothing is."""


def serve(checks: Sequence[Check], port: int) -> ThreadingHTTPServer:
    """Answer from a thread: 200, or 500 with what is wrong. `checks` may grow meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wrong = "; ".join(filter(None, (check() for check in tuple(checks))))
            body = (wrong or "ok").encode()
            self.send_response(500 if wrong else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the kubelet asks every ten seconds."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
