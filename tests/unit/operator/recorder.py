"""A real HTTP server that records what it is asked, and answers what a test has put there."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JOBS = "/apis/batch/v1/namespaces/n/jobs"
Recorded = tuple[str, str, str, dict]


class Server(ThreadingHTTPServer):
    """Answers what a test has put under a method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, object]] = {}
        self.next_pages: dict[tuple[str, str], tuple[int, object]] = {}
        self.asked: list[Recorded] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.asked.append((self.command, self.path, self.headers.get("Content-Type", ""), body))
        key = (self.command, self.path.split("?")[0])
        pages = self.server.next_pages if "continue=" in self.path else self.server.answers
        status, value = pages.get(key, (404, {}))
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""
