"""A signed-in person's requests without a browser: one connection that stays open."""

import http.client
import time
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from tests.console.company_law import PASSPHRASE

_IDLE_S = 3.0
"""After 5 s the server closes a connection that is not used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how long it took from the request to the last byte."""

    status: int
    headers: "http.client.HTTPMessage"
    body: bytes
    took_ms: float

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


class Asker:
    """Asks one console, keep-alive, with the cookie of whoever signed in."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._cookie = ""
        self._used_at = 0.0

    def sign_in(self, name: str) -> "Asker":
        """Through the form's route."""
        answer = self.post("/sign-in", {"name": name, "passphrase": PASSPHRASE})
        assert answer.status == 303, answer.text
        self._cookie = (answer.headers["set-cookie"] or "").partition(";")[0]
        return self

    def get(self, path: str, **headers: str) -> Answer:
        """A page; `headers` with underscores for dashes."""
        return self._ask("GET", path, None, headers)

    def post(self, path: str, form: dict[str, str]) -> Answer:
        """A form, from the console's own origin."""
        sent = {"content-type": "application/x-www-form-urlencoded", "origin": self._url}
        return self._ask("POST", path, urlencode(form), sent)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._cookie:
            sent["cookie"] = self._cookie
        began = time.perf_counter()
        if began - self._used_at > _IDLE_S:
            self._connection.close()
        self._used_at = began
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        read = answer.read()
        took_ms = (time.perf_counter() - began) * 1000
        return Answer(answer.status, answer.headers, read, took_ms)
