"""One table of roles and acts, and what the API really does with each of its cells."""

import base64
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
from policies.access import MAY, SIGNATURES, Act, Role

PASSPHRASE = "long enough for a test"

# v viewer, o operator, a approver, A admin. Written out: a change of the law must change it here.
TABLE = {
    Act.VIEW: "voaA",
    Act.COMMENT: "oaA",
    Act.TALK: "oaA",
    Act.CORRECT: "oaA",
    Act.KEEP_TEST: "oaA",
    Act.START_ROUND: "oA",
    Act.CANCEL_ROUND: "oaA",
    Act.REVISE_ROUND: "oA",
    Act.CHANGE_LAW: "oA",
    Act.ACCEPT_SUITE: "a",
    Act.APPROVE: "a",
    Act.REQUEST_CHANGES: "a",
    Act.REJECT: "a",
    Act.RELEASE: "oaA",
    Act.ROLLBACK: "oaA",
    Act.KILL: "oaA",
    Act.MANAGE_PEOPLE: "A",
    Act.ADD_KEY: "A",
}
LETTER = {Role.VIEWER: "v", Role.OPERATOR: "o", Role.APPROVER: "a", Role.ADMIN: "A"}

_WHY = {"reason": "because"}
_ITEM = {
    "suite": "tests",
    "family": "f",
    "messages": [{"role": "user", "content": "q"}],
    "check": {"kind": "exact", "expected": "a"},
}
# What asks for the act. Whoever may do it gets as far as something that is not there.
ROUTES: dict[Act, tuple[str, str, Any]] = {
    Act.VIEW: ("GET", "/rounds", None),
    Act.COMMENT: ("POST", "/rounds/99/comments", {"body": "hm"}),
    Act.TALK: ("GET", "/talk/versions", None),
    Act.CORRECT: ("POST", "/trajectories/none/corrections", {"node": 0, "text": "better"}),
    Act.KEEP_TEST: ("POST", "/suites/keep", _ITEM),
    Act.START_ROUND: ("POST", "/rounds", {}),
    Act.CANCEL_ROUND: ("POST", "/rounds/99/cancel", _WHY),
    Act.REVISE_ROUND: ("POST", "/rounds/99/revise", _WHY),
    Act.CHANGE_LAW: ("PUT", "/law/schedule/schedule", {"text": "whenever"}),
    Act.ACCEPT_SUITE: ("POST", "/proposals/99/accept", {}),
    Act.APPROVE: ("POST", "/rounds/99/decision", {"decision": "approve"}),
    Act.REQUEST_CHANGES: (
        "POST", "/rounds/99/decision", {"decision": "request_changes", "comment": "c"},
    ),
    Act.REJECT: ("POST", "/rounds/99/decision", {"decision": "reject", "comment": "c"}),
    Act.RELEASE: ("POST", "/rounds/99/release", None),
    Act.ROLLBACK: ("POST", "/rollback", _WHY),
    Act.KILL: ("POST", "/kill", _WHY),
    Act.MANAGE_PEOPLE: ("PATCH", "/people/nobody", {"role": "viewer"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.create()
    database = Database.open(home.database)
    usual = people._HASHER
    people._HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    for role in Role:
        people.add(database, name=role.value, role=role, passphrase=PASSPHRASE, actor="os", at=1.0)
    ground = Ground(home, Settings(), database, ObjectStore(home.objects))
    with TestClient(make_app(ground), base_url="http://127.0.0.1") as client:
        yield client
    people._HASHER = usual
    database.close()


def ask(client: TestClient, act: Act, headers: dict[str, str]) -> int:
    method, route, body = ROUTES[act]
    return client.request(method, f"/api{route}", json=body, headers=headers).status_code


def basic(role: Role) -> dict[str, str]:
    pair = base64.b64encode(f"{role.value}:{PASSPHRASE}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


def test_the_table_is_the_law_and_the_api_obeys_it(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = 0
    for act in Act:
        for role in Role:
            may = LETTER[role] in TABLE[act]
            assert (act in MAY[role]) is may, f"{role} {act}"
            if act in ROUTES:
                status = ask(client, act, basic(role))
                assert status < 500 or status == 503, f"{role} {act}: {status}"
                assert (status != 403) is may, f"{role} {act}: {status}"
                checked += 1
    with capsys.disabled():
        print(
            f"\nroles × acts: {len(Role)} × {len(Act)} = {len(Role) * len(Act)} cells as written, "
            f"{checked} asked of the API, 0 otherwise"
        )


def test_only_adding_keys_has_no_route() -> None:
    """They are made by command, by whoever owns the home."""
    assert set(Act) - set(ROUTES) == {Act.ADD_KEY}


@pytest.mark.parametrize("act", sorted(SIGNATURES))
def test_a_token_cannot_sign(client: TestClient, act: Act) -> None:
    role = next(role for role in Role if act in MAY[role])
    wanted = {"purpose": "all it can", "acts": sorted(MAY[role] - SIGNATURES)}
    made = client.post("/api/me/tokens", json=wanted, headers=basic(role))
    assert made.status_code == 201, made.text
    assert ask(client, act, {"authorization": f"Bearer {made.json()['secret']}"}) == 403
    more = client.post("/api/me/tokens", json={"purpose": "p", "acts": [act]}, headers=basic(role))
    assert more.status_code == 403


def test_a_token_does_what_it_says_and_no_more(client: TestClient) -> None:
    made = client.post(
        "/api/me/tokens", json={"purpose": "read", "acts": ["view"]}, headers=basic(Role.ADMIN)
    )
    bearer = {"authorization": f"Bearer {made.json()['secret']}"}
    assert ask(client, Act.VIEW, bearer) == 200
    assert ask(client, Act.START_ROUND, bearer) == 403
    again = client.post("/api/me/tokens", json={"purpose": "p", "acts": ["view"]}, headers=bearer)
    assert again.status_code == 403
    token_id = made.json()["token"]["token_id"]
    assert client.delete(f"/api/me/tokens/{token_id}", headers=bearer).status_code == 200
    assert ask(client, Act.VIEW, bearer) == 401
