"""Personal credentials, and the law that only a signed-in person changes."""

import pytest

from appliance.control import law, people
from appliance.control.steps import Ground
from appliance.control.worker import start_round
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotFoundError,
    UsageError,
)
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from tests.control.conftest import GATES

CHECK = b'{"kind": "exact", "expected": "a"}'
ITEM = b'{"item_id": "1", "family": "f", "messages": [], "check": ' + CHECK + b"}\n"
SUITE = b'{"suite": "t", "kind": "target"}\n' + ITEM


def add(database: Database, name: str, passphrase: str = "correct horse battery") -> None:  # noqa: S107
    people.add(database, name=name, role="approver", passphrase=passphrase, actor="os", at=1.0)


def test_a_person_signs_in_with_their_own_passphrase(database: Database) -> None:
    add(database, "ada")
    add(database, "bela", "another long secret")
    door = people.Passphrases(database)
    ada = door.sign_in(name="ada", passphrase="correct horse battery", at=2.0)
    assert (ada.role, ada.label, ada.fresh) == ("approver", "internal", True)
    for name, passphrase in (
        ("ada", "another long secret"),
        ("ada", ""),
        ("nobody", "correct horse battery"),
    ):
        with pytest.raises(ForbiddenError, match="name or the passphrase"):
            door.sign_in(name=name, passphrase=passphrase, at=2.0)


def test_the_passphrase_is_not_in_the_file(database: Database) -> None:
    add(database, "ada", "a-very-visible-passphrase")
    files = [database.path, database.path.with_name(database.path.name + "-wal")]
    assert not any(b"a-very-visible" in f.read_bytes() for f in files if f.exists())


@pytest.mark.parametrize(
    ("name", "role", "passphrase", "error"),
    [
        ("ada", "approver", "too short", UsageError),
        ("ada", "king", "long enough secret", UsageError),
        (" ", "approver", "long enough secret", UsageError),
        ("a:b", "approver", "long enough secret", UsageError),
        ("taken", "approver", "long enough secret", ConflictError),
    ],
)
def test_a_wrong_person_is_refused(
    database: Database, name: str, role: str, passphrase: str, error: type[EspalierError]
) -> None:
    add(database, "taken")
    with pytest.raises(error):
        people.add(database, name=name, role=role, passphrase=passphrase, actor="os", at=1.0)
    assert people.count(database) == 1


def change(database: Database, store: ObjectStore, kind: str, text: bytes, actor: str) -> None:
    law.change(database, store, kind=kind, name=kind, text=text, actor=actor, at=1.0)


def test_the_last_word_is_in_force_and_names_its_author(
    database: Database, store: ObjectStore
) -> None:
    change(database, store, "gates", GATES.encode(), "olga")
    change(database, store, "gates", GATES.replace("0.0", "0.1").encode(), "piet")
    change(database, store, "suite", SUITE, "olga")
    entries = {e.kind: e for e in law.in_force(database)}
    assert b"0.1" in store.get(entries["gates"].object)
    assert law.in_force_and_authors(database)[1] == {"olga", "piet"}
    with database.read() as connection:
        assert [e.act for e in audit.entries(connection)] == ["law.change"] * 3


def test_who_takes_a_suite_away_is_an_author(database: Database, store: ObjectStore) -> None:
    change(database, store, "suite", SUITE, "olga")
    law.repeal(database, store, kind="suite", name="suite", actor="mallory", at=2.0)
    assert law.in_force(database) == []
    assert law.in_force_and_authors(database)[1] == {"mallory"}
    with pytest.raises(NotFoundError):
        law.repeal(database, store, kind="suite", name="suite", actor="mallory", at=3.0)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("gates", GATES.replace("lower_95", "lower_59").encode(), "lower_95"),
        ("gates", b'schema = "gates/1"\nname = "x"\ngate = []', "no required"),
        ("recipe", b"learning_rat = 1e-3", "learning_rat"),
        ("suite", b"not json\n", "first line"),
        ("suite", b'{"suite": "h", "kind": "held_out"}\n' + ITEM, "target"),
        ("suite", b'{"suite": "t", "kind": "target"}\n\n', "no items"),
        ("suite", SUITE + ITEM.replace(b"item_id", b"id"), "line 3: not a Item"),
        ("suite", b"", "first line"),
        ("schedule", b"whenever", "every N minutes"),
        ("weather", b"", "expected one of"),
    ],
)
def test_a_malformed_article_changes_nothing(
    database: Database, store: ObjectStore, kind: str, text: bytes, says: str
) -> None:
    with pytest.raises(EspalierError, match=says) as refusal:
        change(database, store, kind, text, "olga")
    assert refusal.value.next_step or kind == "weather"
    assert law.in_force(database) == []


@pytest.mark.parametrize("name", ["", "a" * 100, "a\0b", "..", "a b/c", "-h"])
def test_an_articles_name_can_be_a_files(database: Database, store: ObjectStore, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        law.change(database, store, kind="suite", name=name, text=SUITE, actor="o", at=1.0)
    assert law.in_force(database) == []


def test_whoever_wrote_what_a_round_is_judged_by_is_its_author(
    home: Home, database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if somebody else has the last word while the round is being started."""
    change(database, store, "recipe", b"", "olga")
    change(database, store, "suite", SUITE, "olga")
    change(database, store, "gates", GATES.encode(), "mallory")
    read = law._last_words

    def interrupted(database: Database) -> list[law.Entry]:
        words = read(database)
        change(database, store, "gates", GATES.replace("0.0", "0.1").encode(), "olga")
        return words

    monkeypatch.setattr(law, "_last_words", interrupted)
    ground = Ground(home, Settings(), database, store)
    started = start_round(ground, starter="piet", trajectories="new", idle_s=None)
    assert b"threshold = 0.0" in store.get(started.order.gates)
    assert started.authors == ("mallory", "olga", "piet")
