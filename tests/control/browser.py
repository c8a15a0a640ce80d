"""A browser without a screen: cookies, forms with their CSRF token, redirects not followed."""

import re
from html import unescape
from typing import Any

from starlette.testclient import TestClient

PASSPHRASE = "long enough for a test"
ORIGIN = "http://127.0.0.1"


class Browser:
    """One person's browser, in front of the console."""

    def __init__(self, app: Any) -> None:
        self.client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
        self.csrf = ""

    def get(self, path: str, **headers: str) -> Any:
        """A page."""
        return self.client.get(path, headers=headers)

    def post(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> Any:
        """A form of this session, sent from a page of ours."""
        sent = {"csrf": self.csrf, **(fields or {})}
        return self.client.post(path, data=sent, headers={"origin": ORIGIN, **headers})

    def sign(self, path: str, **fields: str) -> Any:
        """A form with the passphrase in it."""
        return self.post(path, {"passphrase": PASSPHRASE, **fields})

    def sign_in(self, name: str, passphrase: str = PASSPHRASE) -> Any:
        """Through the door; the CSRF token is read off the first page."""
        answer = self.post("/sign-in", {"name": name, "passphrase": passphrase})
        if answer.status_code == 303:
            self.csrf = hidden(self.get("/account").text, "csrf")
        return answer


def hidden(page: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"the page has no field {name}"
    return unescape(found.group(1))
