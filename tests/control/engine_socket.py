"""The private socket of an engine that only says how it is, and counts who asks."""

import json
import socket
import socketserver
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    says: Any
    status: int
    silent: threading.Event | None
    open: list[socket.socket]
    connections: int
    asks: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.client_address = ("", 0)
        self.server.connections += 1
        self.server.open.append(self.request)
        super().setup()

    def do_GET(self) -> None:
        self.server.asks += 1
        if self.server.silent is not None:
            self.server.silent.wait(5)
        body = self.server.says
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class EngineSocket:
    """Answers until closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        """Listen."""
        self._server = _Server(str(self.path), _Handler)
        self._server.connections = self._server.asks = 0
        self._server.status, self._server.silent = 200, None
        self._server.open = []
        self.says(None)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def says(self, quiet_s: float | None) -> None:
        """People have been quiet for so long."""
        self.answers({"people_quiet_s": quiet_s})

    def answers(self, body: Any, status: int = 200) -> None:
        """Whatever it is, as JSON or as these bytes."""
        self._server.says, self._server.status = body, status

    def is_silent(self, until: threading.Event) -> None:
        """Takes questions and answers none."""
        self._server.silent = until

    @property
    def connections(self) -> int:
        """How many were opened to it."""
        return self._server.connections

    @property
    def asks(self) -> int:
        """How often it was asked."""
        return self._server.asks

    def close(self) -> None:
        """As if it had been killed."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.path.unlink()
