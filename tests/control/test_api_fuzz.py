"""The API against its own description: whatever is sent, it is answered, and never by a fault."""

import base64
from collections import Counter
from collections.abc import Iterator
from typing import Any

import argon2
import pytest
from starlette.testclient import TestClient

from appliance.control import people
from appliance.control.app import make_app
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from tests.control.reviewing import Asked, a_round, said
from tests.fuzzing import send_drawn

PASSPHRASE = "long enough for a test"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Database]]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.create()
    database = Database.open(home.database)
    usual = people._HASHER
    people._HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    for name, role in (("ada", "admin"), ("bela", "approver")):
        people.add(
            database, name=name, role=role, passphrase=PASSPHRASE, actor="os", at=1.0,
            label="secret",
        )  # fmt: skip
    ground = Ground(home, Settings(), database, ObjectStore(home.objects))
    a_round(ground, [Asked("quality").add("1", said("b", "failed"), said("a"))])
    with TestClient(make_app(ground), base_url="http://127.0.0.1") as client:
        yield client, database
    people._HASHER = usual
    database.close()


def basic(name: str) -> dict[str, str]:
    pair = base64.b64encode(f"{name}:{PASSPHRASE}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


@pytest.mark.timeout(300)
def test_whatever_is_sent_is_answered(
    console: tuple[TestClient, Database], capsys: pytest.CaptureFixture[str]
) -> None:
    client, database = console
    description = client.get("/api/openapi.json", headers=basic("ada")).json()
    by_status: Counter[int] = Counter()

    def restore(who: str) -> None:
        people.change(database, name=who, actor="os", at=2.0, passphrase=PASSPHRASE)

    def send(case: Any) -> None:
        sent = case.as_transport_kwargs()
        for who in ("ada", "bela"):
            answer = client.request(
                case.method,
                case.formatted_path,
                params=sent["params"],
                json=case.body if isinstance(case.body, list | dict | str | int) else None,
                headers=basic(who),
            )
            by_status[answer.status_code] += 1
            if case.path.endswith("/me/passphrase") and answer.status_code == 200:
                restore(who)
            # No gateway runs here: what needs it says so, and says what to do.
            absent = answer.status_code == 503 and "nothing answers at socket" in answer.text
            assert answer.status_code < 500 or absent, (case.method, str(answer.url), answer.text)
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]

    operations = send_drawn(description, send, max_examples=12)
    with capsys.disabled():
        print(
            f"\nAPI: {operations} operations, {sum(by_status.values())} requests, "
            f"statuses {dict(sorted(by_status.items()))}"
        )
    assert set(by_status) >= {200, 400, 404}
    assert not by_status[429], "somebody was locked out, and the rest was not looked at"
