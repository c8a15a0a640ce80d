"""A gateway in a thread that answers by a script, over real HTTP."""

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from appliance.sandbox.sandbox import Sandbox, UnsafeSandboxWarning, open_sandbox
from tests.services.boxes import bring_bubblewrap

Script = Callable[[list[dict[str, Any]]], Any]


class ScriptedGateway:
    """Answers each chat request with `script(messages)`: text, a message, or an HTTP status."""

    def __init__(self) -> None:
        self.script: Script = lambda messages: "give_up"
        self.requests: list[dict[str, Any]] = []
        self.sessions: list[str | None] = []
        self.feedback: list[dict[str, Any]] = []
        self.feedback_status = 200
        self.adapter = "sha256:" + "a" * 64
        self.cut_streams = False
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"gateway": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def take(self, body: dict[str, Any], session: str | None) -> str:
        with self._lock:
            self.requests.append(body)
            self.sessions.append(session)
            return f"chatcmpl-{len(self.requests)}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    gateway: ScriptedGateway
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: two would wait for each other's acknowledgement

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != "Bearer key":
            self._send(401, {"error": {"message": "no such key"}})
        elif self.path == "/v1/feedback":
            self.gateway.feedback.append(body)
            self._send(self.gateway.feedback_status, {"ok": True})
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._send(404, {"error": {"message": self.path}})

    def _chat(self, body: dict[str, Any]) -> None:
        turn_id = self.gateway.take(body, self.headers["x-espalier-session"])
        said = self.gateway.script(body["messages"])
        if isinstance(said, int):
            self._send(said, {"error": {"message": "scripted"}})
            return
        message = {"role": "assistant", **(said if isinstance(said, dict) else {"content": said})}
        if body.get("stream"):
            self._stream(turn_id, message)
            return
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send(200, self._body(turn_id, "chat.completion", choice))

    def _stream(self, turn_id: str, message: dict[str, Any]) -> None:
        deltas: list[dict[str, Any]] = [{"content": c} for c in message.get("content") or ""]
        for index, call in enumerate(message.get("tool_calls", ())):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            head = {"name": name, "arguments": arguments[:3]}
            deltas.append({"tool_calls": [{"index": index, "id": call["id"], "function": head}]})
            tail = {"arguments": arguments[3:]}
            deltas.append({"tool_calls": [{"index": index, "function": tail}]})
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        if not self.gateway.cut_streams:
            choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        chunks = [self._body(turn_id, "chat.completion.chunk", choice) for choice in choices]
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._send(200, text, "text/event-stream")

    def _body(self, turn_id: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {"id": turn_id, "object": kind, "created": 0, "model": "m", "choices": [choice]}

    def _send(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-espalier-adapter", self.gateway.adapter)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    yield gateway
    gateway.close()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    bring_bubblewrap()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeSandboxWarning)
        sandbox = open_sandbox(jobs=2)
    with sandbox:
        yield sandbox
