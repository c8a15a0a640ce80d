"""Work that agents did, and the people who look at it."""

from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core.tables import trajectories
from tests.collectors.desk import Desk

VIEWER = Person(name="vera", role="viewer", label="internal")
TEACHER = Person(name="olga", role="operator", label="internal")
CLEARED = Person(name="anna", role="operator", label="secret/finance")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def say(desk: Desk, name: str, text: str = "a question", **other: Any) -> None:
    """One turn of a session of that name."""
    fields = {"session": name, **other}
    desk.ingest.turn(desk.make.silver(name, [user(text)], f"answer to {name}", **fields), {})


def who(desk: Desk, **fields: str) -> Any:
    turn = desk.make.silver("x", [], "")
    return msgspec.structs.replace(turn.who, **fields)


def only(ground: Ground) -> str:
    with ground.database.read() as connection:
        ids = set(connection.scalars(sa.select(trajectories.c.trajectory_id)))
    (one,) = ids
    return str(one)


def id_of(ground: Ground, turn_id: str) -> str:
    with ground.database.read() as connection:
        query = sa.text("SELECT trajectory_id FROM turns WHERE turn_id = :id")
        return str(connection.execute(query, {"id": turn_id}).scalar_one())


CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a": "ü"}'}}


def branching(desk: Desk) -> None:
    """Two turns, and a third that goes on from the first one."""
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    desk.ingest.turn(desk.make.silver("a", [user("q")], "", session="s", at=1.0, answer=called), {})
    # Clients drop nulls when they echo.
    echoed = {"role": "assistant", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    desk.ingest.turn(
        desk.make.silver("b", [user("q"), echoed, result], "done", session="s", at=2.0), {}
    )
    again = [user("q"), echoed, {**result, "content": "other"}]
    desk.ingest.turn(desk.make.silver("c", again, "too", session="s", at=3.0), {})
