"""The door: lock-out, sessions, tokens, and what a change of a person ends."""

import threading
import time

import argon2
import pytest
import sqlalchemy as sa

from appliance.control import people, tokens
from appliance.control.identity import Person
from appliance.control.sessions import Sessions
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import (
    ConflictError,
    ForbiddenError,
    LockedOutError,
    NotFoundError,
    SignatureError,
    SignInError,
    UnavailableError,
    UsageError,
)
from appliance.core.tables import failed_sign_ins, sessions
from policies.access import Act
from policies.lockout import forgotten_after_s, wait_s

PASSPHRASE = "correct horse battery"
HOUR = 3600.0


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people, "_HASHER", hasher)
    monkeypatch.setattr(people, "_NOBODY", hasher.hash("nobody"))


@pytest.fixture
def door(database: Database) -> people.Passphrases:
    for name, role in (("ada", "admin"), ("bela", "approver")):
        people.add(database, name=name, role=role, passphrase=PASSPHRASE, actor="os", at=1.0)
    return people.Passphrases(database)


@pytest.fixture
def cookies(database: Database) -> Sessions:
    return Sessions(database, idle_s=HOUR, most_s=12 * HOUR)


def fail(door: people.Passphrases, name: str, times: int, at: float) -> None:
    for _ in range(times):
        with pytest.raises(SignInError):
            door.sign_in(name=name, passphrase="wrong", at=at)


def test_mistyping_is_free_guessing_is_not(door: people.Passphrases) -> None:
    fail(door, "bela", 4, at=10.0)
    assert door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0).name == "bela"
    fail(door, "bela", 5, at=20.0)
    # Also the right one is not looked at: a guesser must not learn that it is.
    with pytest.raises(LockedOutError, match="try again in 5 s"):
        door.sign_in(name="bela", passphrase=PASSPHRASE, at=20.0)
    fail(door, "bela", 1, at=25.1)
    with pytest.raises(LockedOutError, match="try again in 10 s"):
        door.sign_in(name="bela", passphrase=PASSPHRASE, at=25.1)
    assert door.sign_in(name="bela", passphrase=PASSPHRASE, at=35.2).name == "bela"
    fail(door, "bela", 4, at=40.0)


def test_a_name_that_nobody_has_is_locked_like_any_other(door: people.Passphrases) -> None:
    fail(door, "nobody", 5, at=10.0)
    with pytest.raises(LockedOutError):
        door.sign_in(name="nobody", passphrase="wrong", at=10.0)
    assert door.sign_in(name="ada", passphrase=PASSPHRASE, at=10.0).name == "ada"


def test_the_wait_doubles_and_has_an_end() -> None:
    waits = [wait_s(n) for n in range(20)]
    assert waits[:7] == [0, 0, 0, 0, 0, 5, 10]
    assert waits == sorted(waits)
    assert wait_s(10**9) == 900


def test_old_failures_are_forgotten(door: people.Passphrases, database: Database) -> None:
    fail(door, "bela", 3, at=10.0)
    fail(door, "ada", 1, at=11.0 + forgotten_after_s())
    with database.read() as connection:
        assert connection.scalars(sa.select(failed_sign_ins.c.name)).all() == ["ada\0"]


def test_a_lock_out_is_in_the_audit_log(door: people.Passphrases, database: Database) -> None:
    fail(door, "bela", 5, at=10.0)
    with database.read() as connection:
        last = audit.newest(connection, act="sign_in.", limit=9)
    assert [(one.subject, one.detail["wait_s"]) for one in last] == [("bela", 5.0)]


def test_an_endless_passphrase_is_not_hashed(
    door: people.Passphrases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "_is_right", lambda *_: pytest.fail("it was hashed"))
    with pytest.raises(SignInError):
        door.sign_in(name="ada", passphrase="x" * 10**6, at=1.0)


def test_a_session_is_its_cookie_and_the_cookie_is_nowhere(
    door: people.Passphrases, cookies: Sessions, database: Database
) -> None:
    bela = door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0)
    secret = cookies.open(bela, at=10.0)
    session = cookies.find(secret, at=20.0)
    assert session is not None
    assert session.person == Person(name="bela", role="approver", label="internal")
    assert not session.person.fresh, "a session is no signature"
    with pytest.raises(SignatureError):
        session.person.require(Act.APPROVE)
    assert cookies.find(secret[:-1], at=20.0) is None
    kept = database.path.read_bytes() + database.path.with_suffix(".db-wal").read_bytes()
    assert secret.encode() not in kept


@pytest.mark.parametrize(
    ("seen_at", "at", "alive"),
    [
        ((), 10.0 + HOUR - 1, True),
        ((), 10.0 + HOUR + 1, False),
        ([n * HOUR * 0.9 for n in range(1, 14)], 10.0 + 11.9 * HOUR, True),
        ([n * HOUR * 0.9 for n in range(1, 14)], 10.0 + 12.1 * HOUR, False),
        ((), 9.0, False),
    ],
    ids=["idle for less", "idle for more", "busy", "too old all the same", "before it began"],
)
def test_a_session_ends(
    door: people.Passphrases, cookies: Sessions, seen_at: list[float], at: float, alive: bool
) -> None:
    secret = cookies.open(door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0), at=10.0)
    for moment in seen_at:
        cookies.find(secret, at=10.0 + moment)
    assert (cookies.find(secret, at=at) is not None) is alive


def test_a_cookie_of_somebody_who_signed_out_is_worth_nothing(
    door: people.Passphrases, cookies: Sessions
) -> None:
    secret = cookies.open(door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0), at=10.0)
    cookies.close(secret, at=11.0)
    assert cookies.find(secret, at=12.0) is None
    cookies.close(secret, at=13.0)


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"passphrase": "another long one"}])
def test_a_change_of_a_person_ends_their_sessions(
    door: people.Passphrases, cookies: Sessions, database: Database, change: dict[str, str]
) -> None:
    bela = door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0)
    secret, other = cookies.open(bela, at=10.0), cookies.open(bela, at=10.0)
    people.change(database, name="bela", actor="ada", at=11.0, **change)
    assert cookies.find(secret, at=12.0) is None
    assert cookies.find(other, at=12.0) is None
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(sessions)) == 0


def test_who_has_left_signs_in_no_more_and_keeps_the_name(
    door: people.Passphrases, cookies: Sessions, database: Database
) -> None:
    bela = door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0)
    cookie = cookies.open(bela, at=10.0)
    secret, _ = tokens.issue(database, bela, purpose="p", acts=["view"], days=1, at=10.0)
    people.change(database, name="bela", actor="ada", at=11.0, ended=True)
    with pytest.raises(SignInError, match="name or the passphrase"):
        door.sign_in(name="bela", passphrase=PASSPHRASE, at=12.0)
    assert cookies.find(cookie, at=12.0) is None
    with pytest.raises(SignInError):
        tokens.bearer(database, secret, at=12.0)
    with pytest.raises(ConflictError, match="already"):
        people.add(
            database, name="bela", role="viewer", passphrase=PASSPHRASE, actor="ada", at=13.0
        )
    people.change(database, name="bela", actor="ada", at=14.0, ended=False)
    assert door.sign_in(name="bela", passphrase=PASSPHRASE, at=15.0).name == "bela"
    with pytest.raises(SignInError):
        tokens.bearer(database, secret, at=16.0)


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"ended": True}])
def test_the_last_admin_stays(
    door: people.Passphrases, database: Database, change: dict[str, object]
) -> None:
    with pytest.raises(ConflictError, match="last admin"):
        people.change(database, name="ada", actor="os", at=2.0, **change)  # type: ignore[arg-type]
    assert people.get(database, "ada").role == "admin"


def test_a_new_passphrase_ends_a_lock_out(door: people.Passphrases, database: Database) -> None:
    fail(door, "bela", 5, at=10.0)
    people.change(database, name="bela", actor="ada", at=11.0, passphrase="another long one")
    assert door.sign_in(name="bela", passphrase="another long one", at=11.0).name == "bela"


def test_nobody_is_changed_who_is_not_there(database: Database) -> None:
    with pytest.raises(NotFoundError):
        people.change(database, name="nobody", actor="ada", at=1.0, role="viewer")
    with database.read() as connection:
        assert audit.newest(connection, act="user.change") == [], "nothing was done, nothing said"


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"acts": []}, UsageError),
        ({"acts": ["fly"]}, UsageError),
        ({"acts": ["round.start"]}, ForbiddenError),
        ({"acts": ["round.approve"]}, ForbiddenError),
        ({"purpose": " "}, UsageError),
        ({"days": 0.0}, UsageError),
        ({"days": 367.0}, UsageError),
        ({"days": float("nan")}, UsageError),
    ],
)
def test_a_token_that_may_not_be(
    door: people.Passphrases, database: Database, wanted: dict[str, object], error: type[Exception]
) -> None:
    bela = door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0)
    usual: dict[str, object] = {"purpose": "p", "acts": ["view"], "days": 1.0}
    with pytest.raises(error):
        tokens.issue(database, bela, at=10.0, **{**usual, **wanted})  # type: ignore[arg-type]


def test_a_token_ends_with_its_time(door: people.Passphrases, database: Database) -> None:
    bela = door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0)
    secret, token = tokens.issue(database, bela, purpose="p", acts=["view"], days=1, at=10.0)
    assert tokens.bearer(database, secret, at=token.expires_at - 1).acts == {"view"}
    for at in (token.expires_at, 9.0):
        with pytest.raises(SignInError):
            tokens.bearer(database, secret, at=at)
    ada = door.sign_in(name="ada", passphrase=PASSPHRASE, at=10.0)
    with pytest.raises(NotFoundError):
        tokens.revoke(database, ada, token.token_id, at=11.0)


def test_a_stranger_elsewhere_locks_himself_out_alone(door: people.Passphrases) -> None:
    for _ in range(5):
        with pytest.raises(SignInError):
            door.sign_in(name="bela", passphrase="wrong", at=10.0, source="10.0.0.9")
    with pytest.raises(LockedOutError):
        door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0, source="10.0.0.9")
    assert door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0, source="10.0.0.1").fresh


def test_an_endless_name_is_kept_nowhere(door: people.Passphrases, database: Database) -> None:
    for _ in range(6):
        with pytest.raises(SignInError):
            door.sign_in(name="x" * 65, passphrase="wrong", at=10.0)
    with database.read() as connection:
        assert connection.scalars(sa.select(failed_sign_ins.c.name)).all() == []
        assert audit.newest(connection, act="sign_in.") == []


def test_a_new_passphrase_ends_tokens(door: people.Passphrases, database: Database) -> None:
    bela = door.sign_in(name="bela", passphrase=PASSPHRASE, at=10.0)
    secret, _ = tokens.issue(database, bela, purpose="p", acts=["view"], days=1, at=10.0)
    people.change(database, name="bela", actor="bela", at=11.0, passphrase="another long one")
    with pytest.raises(SignInError):
        tokens.bearer(database, secret, at=12.0)


@pytest.mark.parametrize(
    "name", ["Bela", "be\u200bla", "ｂela", "a/b", "..", "espalier", "a:b", ""]
)
def test_nobody_is_taken_for_somebody_else(
    door: people.Passphrases, database: Database, name: str
) -> None:
    with pytest.raises((UsageError, ConflictError)):
        people.add(database, name=name, role="approver", passphrase=PASSPHRASE, actor="ada", at=1.0)


def test_a_crowd_is_told_to_come_back(
    door: people.Passphrases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each who waits for a hash holds a thread: not all of them may."""
    entered, go = threading.Event(), threading.Event()

    def slow(*_: object) -> bool:
        entered.set()
        return go.wait(10)

    monkeypatch.setattr(people, "_is_right", slow)
    crowd = [
        threading.Thread(target=lambda: door.sign_in(name="ada", passphrase="x", at=1.0))
        for _ in range(8)
    ]
    for one in crowd:
        one.start()
    entered.wait(10)
    while door._waiting._value:  # type: ignore[attr-defined] # until all eight stand there
        time.sleep(0.01)
    with pytest.raises(UnavailableError, match="too many people"):
        door.sign_in(name="ada", passphrase="x", at=1.0)
    go.set()
    for one in crowd:
        one.join()
