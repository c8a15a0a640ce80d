"""A small client for our own HTTP APIs: a private Unix socket, or the control plane's port."""

import base64
import http.client
import json
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    SignInError,
    UnavailableError,
    UsageError,
)

_BY_STATUS: dict[int, type[EspalierError]] = {
    400: UsageError,
    401: SignInError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: RefusedError,
    503: UnavailableError,
}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def over_socket(
    path: Path, method: str, route: str, body: Any = None, *, timeout_s: float = 60.0
) -> Any:
    """Ask one of our processes on its private socket; see `_ask`."""
    with closing(_UnixConnection(path, timeout_s)) as connection:
        return _ask(connection, method, route, body, {}, f"socket {path.name}")


class OpenSocket:
    """One of our processes on its private socket, asked often: the connection stays open."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._connection = _UnixConnection(path, timeout_s)
        self._where = f"socket {path.name}"

    def get(self, route: str) -> Any:
        """The parsed answer; errors as in `_ask`."""
        was_open = self._connection.sock is not None
        try:
            return _ask(self._connection, "GET", route, None, {}, self._where)
        except EspalierError as error:
            self.close()
            # A server closes what was quiet for long, and one that was started anew knows nothing
            # of it: that is found out only by asking.
            if was_open and isinstance(error.__cause__, ConnectionError):
                return self.get(route)
            raise

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


def over_port(
    address: Sequence[Any],
    method: str,
    route: str,
    body: Any = None,
    *,
    credential: tuple[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Any:
    """Ask the control plane at (host, port), as the person of `credential` (name, passphrase)."""
    host, port = address
    headers = {}
    if credential is not None:
        pair = base64.b64encode(":".join(credential).encode()).decode()
        headers["authorization"] = f"Basic {pair}"
    with closing(http.client.HTTPConnection(host, port, timeout=timeout_s)) as connection:
        return _ask(connection, method, route, body, headers, f"{host}:{port}")


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    route: str,
    body: Any,
    headers: dict[str, str],
    where: str,
) -> Any:
    """The parsed answer.

    Raises:
        UnavailableError: nobody listens there, or no answer in time.
        EspalierError: the class that the status code stands for, with the server's own message.
    """
    payload = None if body is None else json.dumps(body)
    try:
        connection.request(method, route, payload, {"content-type": "application/json", **headers})
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"nothing answers at {where}: {error}", next_step="espalier up, then espalier status"
        ) from error
    value = json.loads(data) if data else None
    if response.status < 400:
        return value
    kind = _BY_STATUS.get(response.status, EspalierError)
    detail = value.get("error", value) if isinstance(value, dict) else {"message": str(value)}
    if not isinstance(detail, dict):
        detail = {"message": str(detail)}
    # A refusal that is not of our own writing (a route that is none, say) has no message.
    message = detail.get("message") or f"{method} {route}: {response.status} {response.reason}"
    raise kind(str(message), next_step=str(detail.get("next_step", "")))
