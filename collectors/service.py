"""`collectors serve`: takes events in as they come, seals what has gone quiet, answers privately.

The private socket answers ``GET /health``, ``GET /position`` and ``POST /flush`` (``idle_s``: seal
what was quiet for so long; null means the setting's). It is a file that only its owner can reach.
"""

import json
import logging
import signal
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.errors import EspalierError, UnavailableError, UsageError
from appliance.core.home import Home
from appliance.core.settings import Settings
from collectors.collector import Collector, collecting

_log = logging.getLogger("espalier.collectors")

_READ_S = 0.25
_GAP_S = 0.005
_SEAL_EVERY_S = 2.0
_RETRY_S = 1.0
_BODY_MAX_BYTES = 64 << 10


def serve(home: Home, settings: Settings, *, stop: threading.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT (or `stop`).

    Raises:
        ConflictError: another process collects for this home.
    """
    ending = stop or _on_signal()
    with collecting(home):
        collector = Collector(home, settings)
        path = home.socket("collectors")
        path.unlink(missing_ok=True)
        server = _Server(path, collector, settings.assembly.idle_s)
        path.chmod(0o600)
        threading.Thread(target=server.serve_forever, name="collectors-api", daemon=True).start()
        try:
            _work(collector, settings.assembly.idle_s, ending)
        finally:
            server.shutdown()
            server.server_close()
            path.unlink(missing_ok=True)
            collector.close()


def _work(collector: Collector, idle_s: float, ending: threading.Event) -> None:
    sealer = threading.Thread(
        target=_seal_now_and_then, args=(collector, idle_s, ending), name="sealer", daemon=True
    )
    sealer.start()
    while not ending.is_set():
        try:
            collector.step(timeout_s=_READ_S)
            # Python's locks are not fair: leave a gap in which a flush or the sealer gets in.
            ending.wait(_GAP_S)
        except UnavailableError as error:
            # Nothing is lost: the batch is kept, the log's position stands.
            _log.error("cannot take events in, trying again: %s", error)
            ending.wait(_RETRY_S)
    sealer.join()


def _seal_now_and_then(collector: Collector, idle_s: float, ending: threading.Event) -> None:
    backlog = collector.mend()
    pause_s = _SEAL_EVERY_S
    while not ending.wait(pause_s):
        try:
            collector.seal(idle_s)
            # What an old home lacks is written between the passes, without holding them up.
            pause_s = 0.0 if next(backlog, 0) else _SEAL_EVERY_S
        except UnavailableError as error:
            _log.error("cannot seal, trying again: %s", error)


def _on_signal() -> threading.Event:
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    return ending


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, collector: Collector, idle_s: float) -> None:
        super().__init__(str(path), _Handler)
        self.collector = collector
        self.idle_s = idle_s


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {"ok": True, **self._health()})
        elif self.path == "/position":
            self._answer(200, self.server.collector.where())
        else:
            self._answer(404, _error(f"no such route: GET {self.path}"))

    def do_POST(self) -> None:
        if self.path != "/flush":
            self._answer(404, _error(f"no such route: POST {self.path}"))
            return
        try:
            idle_s = _idle_of(self._body())
            flushed = self.server.collector.flush(self.server.idle_s if idle_s is None else idle_s)
        except UsageError as error:
            self._answer(400, _error(error.message))
        except EspalierError as error:
            self._answer(503, _error(error.message, error.next_step))
        else:
            self._answer(200, msgspec.to_builtins(flushed, str_keys=True))

    def address_string(self) -> str:
        return "private"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the name it has there
        _log.debug(format, *args)

    def _health(self) -> dict[str, Any]:
        collector = self.server.collector
        totals = msgspec.to_builtins(collector.totals)
        return {**totals, "sealed": collector.num_sealed, "open": collector.num_open()}

    def _body(self) -> bytes:
        length = int(self.headers.get("content-length") or 0)
        if length > _BODY_MAX_BYTES:
            raise UsageError(f"a body has at most {_BODY_MAX_BYTES} bytes, got {length}")
        return self.rfile.read(length)

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Flush(msgspec.Struct, forbid_unknown_fields=True):
    idle_s: float | None = None


def _idle_of(body: bytes) -> float | None:
    try:
        return msgspec.json.decode(body or b"{}", type=_Flush).idle_s
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"expected {{'idle_s': seconds or null}}: {error}") from error


def _error(message: str, next_step: str = "") -> dict[str, Any]:
    return {"error": {"message": message, "next_step": next_step}}
