"""A browser without a screen: cookies, forms with their CSRF token, redirects not followed."""

import base64
import re
from html import unescape
from typing import Any

import sqlalchemy as sa
from starlette.testclient import TestClient

from appliance.control import people
from appliance.control.app import make_app
from appliance.control.steps import Ground
from appliance.core.tables import users

PASSPHRASE = "long enough for a test"
ORIGIN = "http://127.0.0.1"


class Browser:
    """One person's browser, in front of the console, and the same person at the API."""

    def __init__(self, app: Any) -> None:
        self.client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
        self.name = self.csrf = ""

    @classmethod
    def signed_in(cls, ground: Ground, name: str, role: str, label: str = "internal") -> "Browser":
        """In front of a console over this ground; who is not known there yet is added."""
        with ground.database.read() as connection:
            known = connection.scalar(sa.select(users.c.name).where(users.c.name == name))
        if known is None:
            people.add(
                ground.database, name=name, role=role, label=label, passphrase=PASSPHRASE,
                actor="os:test", at=1.0,
            )  # fmt: skip
        browser = cls(make_app(ground))
        assert browser.sign_in(name).status_code == 303
        return browser

    def get(self, path: str, **headers: str) -> Any:
        """What a path answers."""
        return self.client.get(path, headers=headers)

    def page(self, path: str, status: int = 200) -> str:
        """A page's HTML."""
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return str(answer.text)

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
            self.name, self.csrf = name, hidden(self.page("/account"), "csrf")
        return answer

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """What the API answers to name and passphrase."""
        pair = base64.b64encode(f"{self.name}:{PASSPHRASE}".encode()).decode()
        return self.client.request(
            method, f"/api{path}", json=body, headers={"authorization": f"Basic {pair}"}
        )


def hidden(page: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"the page has no field {name}"
    return unescape(found.group(1))
