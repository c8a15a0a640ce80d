"""Requests to a gateway without a client library: status, headers, JSON, events as they came."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.serving.conftest import GatewayProcess


def post(
    gateway: GatewayProcess, route: str, key: str, body: Any, **headers: str
) -> tuple[int, http.client.HTTPMessage, Any]:
    """One request under ``/v1``; its answer's status, headers and JSON."""
    with _asked(gateway, route, key, body, headers) as answer:
        return answer.status, answer.headers, json.loads(answer.read())


def events(gateway: GatewayProcess, route: str, key: str, body: Any) -> list[tuple[str, Any]]:
    """The events of a streamed answer: (name, data); ``[DONE]`` is data like any other."""
    with _asked(gateway, route, key, {**body, "stream": True}, {}) as answer:
        text = answer.read().decode()
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


@contextmanager
def _asked(
    gateway: GatewayProcess, route: str, key: str, body: Any, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    sent = {"content-type": "application/json", "authorization": f"Bearer {key}", **headers}
    sent = {name.replace("_", "-"): value for name, value in sent.items() if value}
    try:
        connection.request("POST", f"/v1/{route}", json.dumps(body), sent)
        yield connection.getresponse()
    finally:
        connection.close()
