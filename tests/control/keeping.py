"""People who keep tests, the tests they keep, and the suites that come of it."""

import json

import msgspec

from appliance.control import law
from appliance.control.acting.suites import Keep
from appliance.control.identity import Person
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground

USER = {"role": "user", "content": "6 * 7?"}
EXACT = {"kind": "exact", "expected": "42"}


def person(
    name: str, role: str = "operator", *, fresh: bool = False, label: str = "internal"
) -> Person:
    return Person(name=name, role=role, label=label, fresh=fresh)


OLGA = person("olga")
BELA = person("bela", "approver", fresh=True)
CARL = person("carl", "approver", fresh=True)


def item(number: int) -> str:
    fields = {"item_id": str(number), "family": "f", "messages": [USER], "check": EXACT}
    return json.dumps(fields)


def text_of(kind: str, *numbers: int, suite: str = "sums") -> str:
    return "\n".join([json.dumps({"suite": suite, "kind": kind}), *map(item, numbers), ""])


def ask(content: str = "1 + 1?", suite: str = "sums", **change: object) -> Keep:
    message = {"role": "user", "content": content}
    return msgspec.convert({"suite": suite, "messages": [message], "check": EXACT, **change}, Keep)


def ids(ground: Ground, name: str = "sums") -> list[str]:
    return [one.item_id for one in reading.items(ground, OLGA, name)]


def in_force(ground: Ground, name: str = "sums") -> law.Entry | None:
    with ground.database.read() as connection:
        return law.in_force_now(connection, "suite", name)
