"""A fake exporter. It answers /-/vcpus with readings that the test chooses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from exporter.readings import document
from exporter.readings.reading import Reading


class FakeExporter:
    """Answers request n, counted from 0, with answer(n): a reading, or a status and a body.

    `asked` is the number of requests.
    """

    def __init__(self, answer: Callable[[int], Reading | tuple[int, bytes]]) -> None:
        self.answer = answer
        self.asked = 0
        self.hanging, self._closed = threading.Event(), threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # the connection stays open, as with a real exporter

            def do_GET(self) -> None:
                assert self.path.endswith("/-/vcpus"), self.path
                made = fake.answer(fake.asked)
                fake.asked += 1
                status, body = made if isinstance(made, tuple) else (200, b"".join(document.encode(made)))
                if fake._closed.is_set():
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client has closed the connection
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def hang(self, _: int) -> tuple[int, bytes]:
        """A function for `answer`: a request gets no answer until close()."""
        self.hanging.set()
        self._closed.wait()
        return 500, b""

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
