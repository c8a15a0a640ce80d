"""A trajectory's turns as a tree, from its sealed version or, while it is open, from its turns.

What is not here: who may see it (trajectory.py), and how much of it is shown (turn_views.py).
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.core.digests import Digest
from appliance.core.errors import RecordError
from appliance.core.objects import ObjectStore
from appliance.core.records import Json, Node, Tier, Trajectory, Turn, decode
from appliance.core.tables import trajectories, turns

_t = trajectories.c

_KEPT_MAX_BYTES = 32 << 20


class HeldTurn(Turn, frozen=True, kw_only=True):
    """A turn whose prompt is not parsed: each of a hundred turns repeats all that came before."""

    messages: msgspec.Raw  # type: ignore[assignment] # the same JSON, unparsed
    tools: msgspec.Raw = msgspec.Raw(b"[]")  # type: ignore[assignment] # the same


class _HeldNode(Node, frozen=True, kw_only=True):
    turn: HeldTurn


class _HeldTrajectory(Trajectory, frozen=True, kw_only=True):
    nodes: tuple[_HeldNode, ...]


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A turn and its place."""

    held: HeldTurn
    parent: int | None
    tier: Tier | None
    """None, like `trainable`, of a turn that is not sealed yet: sealing decides it."""
    trainable: bool | None

    @property
    def messages(self) -> tuple[Json, ...]:
        """The prompt, parsed."""
        return msgspec.json.decode(self.held.messages, type=tuple[Json, ...])

    @property
    def turn(self) -> Turn:
        """The turn, whole."""
        fields = msgspec.structs.asdict(self.held)
        tools = msgspec.json.decode(self.held.tools, type=tuple[Json, ...])
        return Turn(**{**fields, "messages": self.messages, "tools": tools})


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """The turns, every parent before its children."""

    branches: tuple[Branch, ...]
    feedback: tuple[Digest, ...] | None
    """What the sealed version names; None while it is open."""

    def index_of(self, turn_id: str) -> int | None:
        """The first turn of this id."""
        ids = (branch.held.turn_id for branch in self.branches)
        return next((index for index, one in enumerate(ids) if one == turn_id), None)


def read_tree(connection: sa.Connection, objects: ObjectStore, row: Any) -> Tree:
    """The tree of one version, given its row of `trajectories`.

    Raises:
        NotFoundError, IntegrityError: its object is gone or damaged.
    """
    if row.object is not None:
        sealed = _sealed(objects, Digest(row.object))
        return Tree(branches=_as_sealed(sealed), feedback=sealed.feedback)
    before = connection.scalar(
        sa.select(_t.object)
        .where(
            _t.trajectory_id == row.trajectory_id,
            _t.version < row.version,
            _t.object.is_not(None),
        )
        .order_by(_t.version.desc())
        .limit(1)
    )
    known = _as_sealed(_sealed(objects, Digest(before))) if before else ()
    held = connection.scalars(
        sa.select(turns.c.record).where(
            turns.c.trajectory_id == row.trajectory_id, turns.c.record.is_not(None)
        )
    )
    fresh = [decode(zlib.decompress(data), HeldTurn) for data in held]
    return Tree(branches=tuple(_in_order(known, fresh)), feedback=None)


def num_repeated(messages: Sequence[Json], above: Sequence[Json]) -> int:
    """How many messages of a prompt the conversation above it holds already."""
    shared = 0
    for message, known in zip(messages, above, strict=False):
        if message != known and _identity(message) != _identity(known):
            break
        shared += 1
    return shared


def conversation(branch: Branch) -> tuple[Json, ...]:
    """A turn's prompt and its answer."""
    return (*branch.messages, branch.held.answer)


class _Last:
    """The sealed version that was read last: its pages, texts and tokens come one after another."""

    def __init__(self) -> None:
        self._held: tuple[ObjectStore, Digest, _HeldTrajectory] | None = None

    def read(self, objects: ObjectStore, digest: Digest) -> _HeldTrajectory:
        held = self._held
        if held is not None and held[0] is objects and held[1] == digest:
            return held[2]
        self._held = None
        data = objects.get(digest)
        try:
            # Not `decode`: it goes through the bytes twice, and there may be very many.
            found = msgspec.json.decode(data, type=_HeldTrajectory)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"not a Trajectory: {error}") from error
        if len(data) <= _KEPT_MAX_BYTES:
            self._held = (objects, digest, found)
        return found


_sealed = _Last().read


def _as_sealed(trajectory: _HeldTrajectory) -> tuple[Branch, ...]:
    return tuple(
        Branch(held=node.turn, parent=node.parent, tier=node.tier, trainable=node.trainable)
        for node in trajectory.nodes
    )


def _in_order(known: Sequence[Branch], fresh: Sequence[HeldTurn]) -> Iterator[Branch]:
    """Known turns and new ones as one tree, by what their messages go on from."""
    found = {(one.held.turn_id, one.held.choice): one for one in known}
    for turn in fresh:
        branch = Branch(held=turn, parent=None, tier=None, trainable=None)
        found[(turn.turn_id, turn.choice)] = branch
    branches = sorted(found.values(), key=_age)
    parents = _parents([conversation(branch) for branch in branches])
    children: dict[int | None, list[int]] = {}
    for index in reversed(range(len(branches))):
        children.setdefault(parents[index], []).append(index)
    places: dict[int | None, int | None] = {None: None}
    waiting = children.get(None, [])
    while waiting:
        index = waiting.pop()
        places[index] = len(places) - 1
        yield msgspec.structs.replace(branches[index], parent=places[parents[index]])
        waiting += children.get(index, [])


def _parents(told: Sequence[tuple[Json, ...]]) -> list[int | None]:
    """For each, the earlier conversation that its prompt begins with; of several, the longest."""
    found: list[int | None] = []
    for index, whole in enumerate(told):
        longest: int | None = None
        for place, earlier in enumerate(told[:index]):
            is_longer = longest is None or len(earlier) >= len(told[longest])
            if is_longer and _goes_on(whole[:-1], earlier):
                longest = place
        found.append(longest)
    return found


def _goes_on(prompt: Sequence[Json], earlier: Sequence[Json]) -> bool:
    # The answer first: where it differs, the rest need not be looked at.
    length = len(earlier)
    return (
        len(prompt) >= length
        and num_repeated(prompt[length - 1 : length], earlier[-1:]) == 1
        and num_repeated(prompt, earlier) == length
    )


def _age(branch: Branch) -> tuple[float, float, str, int]:
    turn = branch.held
    return (turn.started_at, turn.ended_at, turn.turn_id, turn.choice)


def _identity(message: Json) -> Any:
    """What is the same in an echo: clients drop nulls and add fields of their own."""
    if not isinstance(message, dict):
        return message
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    content = message.get("content") or ""
    return (message.get("role"), content, calls, message.get("tool_call_id") or "")


def _call(call: Json) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    return (function.get("name"), function.get("arguments")) if isinstance(function, dict) else call
