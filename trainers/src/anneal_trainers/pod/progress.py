"""/progress for the operator's display and /metrics for Prometheus, on a thread of the launcher."""

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from anneal_api.runs import Progress

POLL_SECONDS = 0.1


def serve(
    progress: Callable[[], Progress], metrics: Callable[[], bytes], port: int
) -> ThreadingHTTPServer | None:
    """Answer /progress and /metrics; training goes on where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", progress().model_dump_json(by_alias=True).encode())
            elif self.path == "/metrics":
                self._answer(CONTENT_TYPE_LATEST, metrics())
            else:
                self.send_error(404)

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the log is the ranks'."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        print(f"progress is not served: port {port}: {error}", file=sys.stderr)
        return None
    threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True).start()
    return server
