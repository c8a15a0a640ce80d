"""Agents' keys: shown once, stored hashed, made and revoked by command."""

import json

import pytest

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import ConflictError, NotFoundError, PolicyError, UsageError
from appliance.core.home import Home
from serving.command import main
from serving.keys import KeyRing, Scope, add_key, list_keys, revoke_key
from serving.limits import list_limits, set_limits
from serving.pauses import list_pauses, pause

WHO = {"team": "t", "project": "p", "agent": "a", "actor": "test"}


def test_a_key_is_found_by_its_secret_until_it_is_revoked(database: Database) -> None:
    secret, key = add_key(database, **WHO, label="internal", exact=True)
    ring = KeyRing(database)
    assert ring.find(secret) == key
    assert ring.find(secret + "x") is None
    revoke_key(database, key.key_id, actor="test")
    assert ring.find(secret) == key  # until the ring reads again
    ring.reload()
    assert ring.find(secret) is None


def test_the_secret_is_stored_nowhere(database: Database, home: Home) -> None:
    secret, _ = add_key(database, **WHO, label="internal", exact=False)
    database.close()
    for path in home.root.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_every_change_is_audited(database: Database) -> None:
    _, key = add_key(database, **WHO, label="internal", exact=False)
    revoke_key(database, key.key_id, actor="test")
    with database.read() as connection:
        assert [e.act for e in audit.entries(connection)] == ["key.add", "key.revoke"]


def test_a_wrong_label_makes_no_key(database: Database) -> None:
    with pytest.raises(PolicyError):
        add_key(database, **WHO, label="cosmic", exact=False)
    assert list_keys(database) == []


@pytest.mark.parametrize("what", ["team", "project", "agent"])
@pytest.mark.parametrize("name", ["", " ", "sales ", "a\nb", "x" * 101])
def test_a_key_of_nobody_is_refused(database: Database, what: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"a {what} has 1 to 100 printable") as refusal:
        add_key(database, **{**WHO, what: name}, label="internal", exact=False)
    assert f"--{what} NAME" in refusal.value.next_step
    assert list_keys(database) == []


def test_nothing_is_set_on_a_revoked_key_but_a_kill_ends_what_it_began(database: Database) -> None:
    _, key = add_key(database, **WHO, label="internal", exact=False)
    scope = Scope("key", key.key_id)
    revoke_key(database, key.key_id, actor="test")
    with pytest.raises(ConflictError, match=r"was revoked, since .*: it may ask nothing"):
        set_limits(database, scope, {"tokens_per_day": 1}, actor="test")
    with pytest.raises(ConflictError, match="was revoked"):
        pause(database, scope, killed=False, actor="test", reason="r")
    assert (list_limits(database), list_pauses(database)) == ({}, [])
    pause(database, scope, killed=True, actor="test", reason="r")
    assert [one.scope for one in list_pauses(database)] == [scope]


def test_revoking_what_is_not_there(database: Database) -> None:
    with pytest.raises(NotFoundError, match="espalier key list"):
        revoke_key(database, "key-0", actor="test")


def test_by_command(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> dict[str, object]:
        assert main(["key", *words, "--home", str(home.root), "--json"]) == 0
        value: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return value

    made = run("add", "--team", "sales", "--exact")
    assert str(made["key"]).startswith("esp-")
    assert (made["team"], made["label"], made["exact"]) == ("sales", "internal", True)
    (listed,) = run("list")["keys"]  # type: ignore[misc]
    assert listed["key_id"] == made["key_id"]
    assert "key" not in listed
    run("revoke", str(made["key_id"]))
    assert run("list")["keys"][0]["revoked_at"]  # type: ignore[index]


def test_the_list_shows_what_holds_for_each_key(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> str:
        assert main(["key", *words, "--home", str(home.root)]) == 0
        return capsys.readouterr().out

    run("add", "--team", "sales", "--agent", "coder", "--tokens-per-day", "2000000")
    run("add", "--team", "sales", "--agent", "writer")
    run("set", "--team", "sales", "--requests-per-minute", "9")
    run("pause", "--agent", "coder", "--reason", "r")
    run("kill", "--agent", "writer", "--reason", "r")
    coder, writer = run("list").splitlines()
    assert "agent paused" in coder
    assert "key limited: tokens per day 2000000  team limited: requests per minute 9" in coder
    assert "agent killed  team limited" in writer
    assert "paused" not in writer
    first, second = json.loads(run("list", "--json"))["keys"]
    assert [one["kind"] for one in first["limits"]] == ["key", "team"]
    assert [(one["kind"], one["killed"]) for one in second["pauses"]] == [("agent", True)]
    run("revoke", first["key_id"])
    assert run("list").splitlines()[0].endswith("revoked")


def test_a_command_that_fails_says_the_next_step(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "revoke", "key-0", "--home", str(home.root)]) == 2
    assert "next: espalier key list" in capsys.readouterr().err
