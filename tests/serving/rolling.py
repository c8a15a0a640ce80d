"""Sessions that ask a gateway while a candidate is tried out."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import openai

from appliance.core.decisions import Release
from appliance.core.digests import Digest
from appliance.core.records import convert
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say

_numbers = count()


class Said(NamedTuple):
    """One answer."""

    session: str
    adapter: str
    """As the response states it."""
    text: str
    turn_id: str


def visit(
    client: openai.OpenAI,
    session: str | None = None,
    *,
    instead: dict[Digest, str] | None = None,
    model: str = ALIAS,
) -> Said:
    """A session asks once; a new one where none is named. `instead` is what versions say of it."""
    session = session or f"visitor-{next(_numbers)}"
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=say(f"hello {session}", instead=instead or {}),  # type: ignore[arg-type]
        extra_headers={"x-espalier-session": session},
    )
    answer = raw.parse()
    text = str(answer.choices[0].message.content)
    return Said(session, raw.headers["x-espalier-adapter"], text, answer.id)


def visits(client: openai.OpenAI, gateway: GatewayProcess, **how: Any) -> Iterator[Said]:
    """New sessions, one after the other, for as long as a candidate is tried out."""
    for _ in range(3000):
        yield visit(client, **how)
        if rollout(gateway) is None:
            return
    raise AssertionError(f"the rollout did not end: {rollout(gateway)}")


def rollout(gateway: GatewayProcess, alias: str = "") -> Any:
    """What is tried out now."""
    return gateway.admin("GET", f"/releases?alias={alias}")["rollout"]


def entries(gateway: GatewayProcess, alias: str = "") -> list[Release]:
    """The journal, oldest first."""
    found = gateway.admin("GET", f"/releases?alias={alias}")["history"]
    return [convert(entry, Release) for entry in reversed(found)]


def settle(appliance: Appliance, text: str) -> None:
    """Write the appliance's espalier.toml."""
    appliance.home.settings.write_text(text)


def details(appliance: Appliance, act: str) -> list[dict[str, Any]]:
    """What the audit log says of every act of this kind."""
    from appliance.core import audit

    with appliance.database.read() as connection:
        found = audit.entries(connection)
    return [json.loads(json.dumps(entry.detail)) for entry in found if entry.act == act]
