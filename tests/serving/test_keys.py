"""Agents' keys: shown once, stored hashed, made and revoked by command."""

import json

import pytest

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import NotFoundError, PolicyError
from appliance.core.home import Home
from serving.command import main
from serving.keys import KeyRing, add_key, list_keys, revoke_key

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


def test_a_command_that_fails_says_the_next_step(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "revoke", "key-0", "--home", str(home.root)]) == 2
    assert "next: espalier key list" in capsys.readouterr().err
