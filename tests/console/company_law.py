"""People and law of a made-up company: every role, recipe, gates, suites, proposals."""

import random

import msgspec
import sqlalchemy as sa

from appliance.control import people, tokens
from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.records import Item
from appliance.core.tables import law, proposals
from tests.console.company_words import FAMILIES, nasty, talk

PASSPHRASE = "long enough for a test"
PEOPLE = (
    ("ada", "admin", "secret/finance"),
    ("bela", "approver", "secret/finance"),
    ("carl", "approver", "internal"),
    ("olga", "operator", "confidential"),
    ("vera", "viewer", "internal"),
    ("مريم الفارسي", "viewer", "internal"),
    ("<img src=x onerror=window.__xss=5>", "viewer", "public"),
    ("Maximiliane-Alexandra von Donaudampfschifffahrt zu Frachtbrief", "viewer", "internal"),
    ("gone", "operator", "internal"),
)
GATES = b"""# The law of a round. Whoever changes this file is an author of it.
schema = "gates/1"
name = "law"
[[gate]]
name = "the target improves"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
[[gate]]
name = "what it could do, it still can"
kind = "protected"
margin = 0.2
max_void_share = 1.0
[[gate]]
name = "no hidden trigger"
kind = "canary"
margin = 0.25
required = false
"""
RECIPE = b"""schema = "recipe/1"
name = "tiny"
rank = 8
learning_rate = 1e-3
"""
SUITES = {"freight": "target", "arithmetic": "protected", "house style": "protected"}


def fill_people(ground: Ground, *, now: float) -> None:
    """Everybody, one of them gone, and an admin's tokens."""
    began = now - 40 * 86_400
    for name, role, label in PEOPLE:
        people.add(
            ground.database, name=name, role=role, label=label, passphrase=PASSPHRASE,
            actor="os:root", at=began,
        )  # fmt: skip
    people.change(ground.database, name="gone", actor="ada", at=now - 86_400, ended=True)
    ada = Person(name="ada", role="admin", label="secret/finance")
    for purpose in ("the nightly report", nasty(0)):
        tokens.issue(ground.database, ada, purpose=purpose, acts=["view"], days=30, at=now)


def fill_law(ground: Ground, *, now: float, noise: random.Random) -> dict[str, Digest]:
    """Recipe, gates, schedule and suites with their history; returns what is in force."""
    began = now - 35 * 86_400
    texts: list[tuple[str, str, bytes]] = [
        ("recipe", "recipe", RECIPE.replace(b"tiny", b"first")),
        ("gates", "gates", GATES.replace(b"0.2", b"0.3")),
        ("recipe", "recipe", RECIPE),
        ("gates", "gates", GATES),
        ("schedule", "nightly", b"never"),
    ]
    for name, kind in SUITES.items():
        texts += [("suite", name, suite_text(name, kind, num)) for num in (40, 60, 120)]
    objects = ground.store.put_many([text for _, _, text in texts])
    rows = [
        {
            "kind": kind, "name": name, "object": digest, "at": began + 3600 * at,
            "actor": ("olga", "ada")[at % 2],
            "accepted_by": "bela" if kind == "suite" and noise.random() < 0.5 else None,
        }
        for at, ((kind, name, _), digest) in enumerate(zip(texts, objects, strict=True))
    ]  # fmt: skip
    with ground.database.write() as connection:
        connection.execute(sa.insert(law), rows)
    return {f"{row['kind']}/{row['name']}": Digest(str(row["object"])) for row in rows}


def fill_proposals(ground: Ground, now_in_force: dict[str, Digest], *, now: float) -> None:
    """Changes of the protected suite: three that wait (one a repeal), and decided ones."""
    replaces = now_in_force["suite/arithmetic"]
    grown = ground.store.put(suite_text("arithmetic", "protected", 125, changed=3))
    rows = [
        {
            "name": "arithmetic", "replaces": replaces, "object": "" if number == 1 else grown,
            "reason": f"{talk(number)[1]} {nasty(number)}"[:900], "proposer": "olga",
            "at": now - 86_400 + number, "state": state,
            "decided_by": None if state == "open" else "bela",
            "decided_at": None if state == "open" else now - 3600,
        }
        for number, state in enumerate(
            ["open", "open", "open", "accepted", "declined", "overtaken"]
        )
    ]  # fmt: skip
    with ground.database.write() as connection:
        connection.execute(sa.insert(proposals), rows)


def suite_text(name: str, kind: str, num_items: int, *, changed: int = 0) -> bytes:
    """A suite file."""
    head = msgspec.json.encode({"suite": name, "kind": kind})
    items = [suite_item(name, number) for number in range(num_items)]
    for number in range(changed):
        items[number] = msgspec.structs.replace(items[number], max_tokens=32)
    return b"\n".join([head, *map(msgspec.json.encode, items)]) + b"\n"


def suite_item(suite: str, number: int) -> Item:
    """An item in one of many languages; each seventh asks something nasty."""
    language, asked, answered = talk(number)
    question = f"{asked} {nasty(number)}" if number % 7 == 0 else asked
    return Item(
        item_id=f"{suite}-{number:05d}",
        family=FAMILIES[number % len(FAMILIES)],
        language=language,
        messages=({"role": "user", "content": f"{question} ({number})"},),
        check={"kind": "exact", "expected": answered},
    )
