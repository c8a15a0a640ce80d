"""A browser without a browser: signed in, with its session's CSRF token in every form."""

import base64
import re
import time
from typing import Any

import httpx2
import sqlalchemy as sa
from starlette.testclient import TestClient

from appliance.control import people
from appliance.control.app import make_app
from appliance.control.sessions import Sessions
from appliance.control.steps import Ground
from appliance.core.tables import users

PASSPHRASE = "long enough for a test"


class Browser:
    """One person, in front of the console over this ground."""

    def __init__(self, ground: Ground, name: str, role: str, label: str = "internal") -> None:
        with ground.database.read() as connection:
            known = connection.scalar(sa.select(users.c.name).where(users.c.name == name))
        if known is None:
            people.add(
                ground.database, name=name, role=role, label=label, passphrase=PASSPHRASE,
                actor="os:test", at=1.0,
            )  # fmt: skip
        sessions = Sessions(ground.database, idle_s=3600, most_s=3600)
        person = people.Passphrases(ground.database).sign_in(
            name=name, passphrase=PASSPHRASE, at=time.time()
        )
        secret = sessions.open(person, at=time.time())
        found = sessions.find(secret, at=time.time())
        assert found is not None
        self.name, self.csrf = name, found.csrf
        self.client = TestClient(
            make_app(ground), base_url="http://localhost", follow_redirects=False
        )
        self.client.cookies.set("espalier_session", secret)

    def get(self, path: str, status: int = 200) -> str:
        """A page's HTML."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(
        self, path: str, fields: dict[str, Any], *, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Send a form."""
        sent = {"csrf": self.csrf, **fields}
        return self.client.post(
            path, data=sent, headers={"origin": "http://localhost", **(headers or {})}
        )

    def api(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        """Ask the API with name and passphrase."""
        pair = base64.b64encode(f"{self.name}:{PASSPHRASE}".encode()).decode()
        return self.client.request(
            method, f"/api{path}", json=body, headers={"authorization": f"Basic {pair}"}
        )


def cards(html: str) -> list[str]:
    """The cards of answers in a page, without the seconds that they took."""
    found = re.findall(r'<section class="card column".*?</section>', html, re.DOTALL)
    return [re.sub(r"<footer>[\d.]+ s", "<footer>", card) for card in found]
