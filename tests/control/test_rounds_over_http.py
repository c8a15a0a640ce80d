"""A round by the control process of a whole appliance: its verdict, its audit, who may start it."""

import pytest

from tests.control.conftest import GATES, PASSPHRASE, SUITE, Running

RECIPE = "schema = 'recipe/1'\nname = 'test'\n"


@pytest.fixture(scope="module")
def with_law(running: Running) -> Running:
    for kind, text in (("recipe", RECIPE), ("gates", GATES), ("suite", SUITE)):
        path = running.write(f"{kind}.txt", text)
        ended = running.run("law", "set", kind, path, person="olga")
        assert ended.code == 0, ended.message
    return running


@pytest.fixture(scope="module")
def failed(with_law: Running) -> int:
    """A round over work whose outcome nobody knows; its number."""
    with_law.require_well()
    ended = with_law.run("round", "run", "--wait", "--idle-s", "0", "--json", person="olga")
    assert ended.code == 1, ended.message
    return int(ended.json["round"])


def test_nothing_to_train_is_the_verdict_failed_with_its_reason(
    with_law: Running, failed: int
) -> None:
    (round_,) = [r for r in with_law.run("rounds", "--json").json if r["round"] == failed]
    assert (round_["state"], round_["verdict"]) == ("failed", "failed")
    assert round_["reason"].startswith("nothing to train on: ")
    assert (round_["authors"], round_["adapter"]) == (["olga"], None)


def test_the_audit_log_shows_each_transition(with_law: Running, failed: int) -> None:
    entries = with_law.run("log", "--json").json
    moves = [e for e in entries if e["act"].startswith("round.") and e["subject"] == str(failed)]
    assert [(e["act"], e["actor"]) for e in moves] == [
        ("round.create", "olga"),
        ("round.collecting", "espalier"),
        ("round.curating", "espalier"),
        ("round.failed", "espalier"),
    ]
    assert moves[-1]["detail"]["reason"].startswith("nothing to train on: ")


@pytest.mark.parametrize(
    ("name", "passphrase", "status", "code", "says"),
    [
        ("bela", PASSPHRASE, 403, 5, "'approver' may not do"),
        ("olga", "not her passphrase", 401, 5, "the name or the passphrase is wrong"),
        ("nobody", PASSPHRASE, 401, 5, "the name or the passphrase is wrong"),
    ],
    ids=["without the right", "wrong passphrase", "a stranger"],
)
def test_who_may_not_start_a_round_is_refused(
    with_law: Running, name: str, passphrase: str, status: int, code: int, says: str
) -> None:
    before = with_law.run("log", "--json").json
    got, answer = with_law.control("POST", "/rounds", {}, sign_in=(name, passphrase))
    assert got == status
    assert says in answer["error"]["message"]
    ended = with_law.run(
        "round", "run", person="olga", ESPALIER_AS=name, ESPALIER_PASSPHRASE=passphrase
    )
    assert (ended.code, says in ended.message, "next: " in ended.message) == (code, True, True)
    assert with_law.run("log", "--json").json == before


def test_who_does_not_sign_in_is_refused(with_law: Running) -> None:
    assert with_law.control("GET", "/rounds")[0] == 401
    assert with_law.control("GET", "/openapi.json")[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        {"idle_s": "soon"},
        {"idle_s": -1},
        {"idle_s": float("nan")},
        {"idle_s": float("inf")},
        {"trajectories": "none"},
        {"trajectory": "all"},
    ],
    ids=str,
)
def test_a_malformed_order_is_refused_and_rounds_can_still_be_read(
    with_law: Running, body: dict[str, object]
) -> None:
    status, answer = with_law.control("POST", "/rounds", body, sign_in=("olga", PASSPHRASE))
    assert status == 400, answer
    assert with_law.control("GET", "/rounds", sign_in=("olga", PASSPHRASE))[0] == 200


def test_a_passphrase_may_hold_any_letter(running: Running) -> None:
    secret = running.write("letters", "Größe, naïveté & ключ")
    words = ("user", "add", "zoë", "--role", "viewer", "--new-passphrase-file", secret)
    assert running.run(*words, person="ada").code == 0
    status, answer = running.control("GET", "/rounds", sign_in=("zoë", "Größe, naïveté & ключ"))
    assert status == 200, answer


@pytest.mark.parametrize("header", ["Basic", "Basic ###", "Basic bm9jb2xvbg==", "Bearer x"])
def test_a_header_that_names_nobody_is_a_401(running: Running, header: str) -> None:
    status, answer = running.control("GET", "/rounds", headers={"authorization": header})
    assert status == 401
    said = answer["error"]
    assert "sign in" in said["message"] or "token" in said["message"]
