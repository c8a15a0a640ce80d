"""Agents' work in a made-up company: sealed trees of turns, and rows that point at them."""

import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.steps import Ground
from appliance.core.digests import Digest, digest_bytes
from appliance.core.records import (
    ArrayRef,
    Feedback,
    Node,
    Sampling,
    Target,
    Trajectory,
    Turn,
    Who,
    encode,
)
from appliance.core.tables import feedback, trajectories, trajectory_texts, turns
from collectors.search_index import words_of
from tests.console.company_base import byte_tokenizer
from tests.console.company_words import AGENTS, FAMILIES, NASTY, TEAMS, nasty, talk

_KINDS = 48
_LABELS = ("internal",) * 8 + ("confidential", "secret/finance")
_OUTCOMES = ("ok", "ok", "ok", "failed", "unknown")
_SPREAD_S = 30 * 86_400
_CHUNK = 20_000
_PUT_WORDS = sa.text("INSERT INTO trajectory_search (rowid, body) VALUES (:number, :body)")


def name_of(number: int) -> str:
    """The id of the trajectory of this number."""
    return f"t-{number:06d}"


def sealed_kinds(ground: Ground, base: Digest, *, now: float, noise: random.Random) -> list[Any]:
    """(object, record) of the trees that all trajectories share, the first of them the richest."""
    arrays: list[bytes] = []
    trees = [_tree(arrays, base, number, now, noise) for number in range(_KINDS)]
    objects = ground.store.put_many([encode(one) for one in trees])
    ground.store.put_many(set(arrays))
    return list(zip(objects, trees, strict=True))


def fill_work(
    ground: Ground, kinds: Sequence[Any], served: Sequence[Digest | None], *, num: int,
    now: float, noise: random.Random,
) -> None:  # fmt: skip
    """`num` trajectories of the last 30 days, with their turns, words and opinions.

    `served` are the adapters that answered, one after the other.
    """
    words = [words_of(tree)[:160] for _, tree in kinds]
    step = _SPREAD_S / num
    for start in range(0, num, _CHUNK):
        numbers = range(start, min(start + _CHUNK, num))
        rows = [
            _row(n, kinds, served[n * len(served) // num], now - _SPREAD_S + n * step, noise)
            for n in numbers
        ]
        with ground.database.write() as connection:
            connection.execute(sa.insert(trajectories), rows)
            connection.execute(sa.insert(turns), [_turn_row(row, noise) for row in rows])
            names = [{"number": n + 1, "trajectory_id": name_of(n)} for n in numbers]
            connection.execute(sa.insert(trajectory_texts), names)
            bodies = [
                {"number": n + 1, "body": f"{words[n % len(words)]} ticket {n:06d}"}
                for n in numbers
            ]
            connection.execute(_PUT_WORDS, bodies)
    with ground.database.write() as connection:
        connection.execute(sa.insert(feedback), list(_opinions(min(num, 400), now)))


def _row(
    number: int, kinds: Sequence[Any], adapter: Digest | None, at: float, noise: random.Random
) -> dict[str, Any]:
    digest, tree = kinds[number % len(kinds)]
    first = number < len(kinds)
    return {
        "trajectory_id": name_of(number),
        "version": 1,
        "state": "sealed",
        "key_id": f"k-{number % 7}",
        "team": TEAMS[number % len(TEAMS)],
        "project": ("desk", "web")[number % 2],
        "agent": AGENTS[number % len(AGENTS)],
        # The first ones are for everybody: pages are shown on them.
        "label": "internal" if first else noise.choice(_LABELS),
        "tier": tree.tier,
        "outcome": noise.choice(_OUTCOMES),
        "task": f"desk/{number % 500}" if number % 11 else nasty(number),
        "family": FAMILIES[number % len(FAMILIES)],
        "num_turns": len(tree.nodes),
        "adapter": adapter,
        "object": digest,
        "part": None,
        "last_turn_at": at,
        "changed_at": at,
        "sealed_at": at + 900,
    }


def _turn_row(row: dict[str, Any], noise: random.Random) -> dict[str, Any]:
    """Its last turn; what it said is in the sealed object."""
    return {
        "turn_id": f"{row['trajectory_id']}.1",
        "choice": 0,
        "trajectory_id": row["trajectory_id"],
        "key_id": row["key_id"],
        "session": None,
        "adapter": row["adapter"],
        "num_end_ids": None,
        "end_ids": None,
        "end_text": None,
        "record": None,
        "started_at": row["last_turn_at"] - noise.lognormvariate(0, 0.5),
        "ended_at": row["last_turn_at"],
    }


def _opinions(num: int, now: float) -> Iterator[dict[str, Any]]:
    for number in range(num):
        kind = ("comment", "correction", "outcome")[number % 3]
        _, _, answered = talk(number)
        one = Feedback(
            feedback_id=f"person/{number}",
            target=Target(trajectory_id=name_of(number // 4)),
            kind=kind,  # type: ignore[arg-type] # one of the three
            source="human",
            actor=("ada", "bela", "carl", "olga")[number % 4],
            outcome="ok" if kind == "outcome" else "unknown",
            correction=f"{answered} {nasty(number)}" if kind == "correction" else None,
            comment=f"{nasty(number)} {answered}" if kind == "comment" else None,
            at=now - number,
        )
        yield {
            "feedback_id": one.feedback_id,
            "turn_id": None,
            "trajectory_id": one.target.trajectory_id,
            "session": None,
            "reference": None,
            "kind": kind,
            "record": encode(one).decode(),
            "at": one.at,
        }


def _tree(
    arrays: list[bytes], base: Digest, number: int, now: float, noise: random.Random
) -> Trajectory:
    """Number 0 has branches, tool calls and whatever is nasty; 1 has 70 turns; 2 is very long."""
    who = Who(key_id="k-0", team=TEAMS[0], project="desk", agent=AGENTS[0])
    made = _Talk(arrays, base, who, now - 3600, noise)
    _, asked, answered = talk(number)
    ask = {"role": "user", "content": asked if number else f"{asked}\n{NASTY[0]}"}
    system = {"role": "system", "content": "You help at the freight desk. Be brief."}
    first = made.say([system, ask], {"role": "assistant", "content": answered}, None)
    if number == 0:
        calls = [{
            "id": "call-1", "type": "function",
            "function": {"name": "cancel_line", "arguments": '{"invoice": "M-03", "line": 4}'},
        }]  # fmt: skip
        called = made.go_on(
            first, {"role": "user", "content": "Cancel it."},
            {"role": "assistant", "content": None, "tool_calls": calls},
        )  # fmt: skip
        made.go_on(
            called, {"role": "tool", "tool_call_id": "call-1", "content": '{"cancelled": true}'},
            {"role": "assistant", "content": "Done: line 4 is cancelled."},
        )  # fmt: skip
        for text in NASTY:
            made.go_on(
                first, {"role": "user", "content": f"What is this? {text}"},
                {"role": "assistant", "content": f"It says: {text}"},
            )  # fmt: skip
    for turn in range({1: 70}.get(number, number % 3)):
        _, asked, answered = talk(number + turn)
        answer = {"role": "assistant", "content": f"{answered} ({turn})"}
        made.go_on(len(made.nodes) - 1, {"role": "user", "content": asked}, answer)
    if number == 2:
        long = {"role": "assistant", "content": "Frachtbrief. " * 80_000}
        made.go_on(first, {"role": "user", "content": "Print it all."}, long, gold=False)
    tier = min((node.tier for node in made.nodes), key=("bronze", "silver", "gold").index)
    return Trajectory(
        trajectory_id=name_of(number),
        version=1,
        who=who,
        label="internal",
        nodes=tuple(made.nodes),
        tier=tier,
        outcome="ok",
        feedback=(),
        task=f"desk/{number}",
        family=FAMILIES[number % len(FAMILIES)],
        sealed_at=now,
    )


class _Talk:
    """Makes turns of a tree, with token ids where the turn is gold."""

    def __init__(
        self, arrays: list[bytes], base: Digest, who: Who, at: float, noise: random.Random
    ) -> None:
        self.nodes: list[Node] = []
        self._arrays, self._base, self._who, self._at, self._noise = arrays, base, who, at, noise
        self._tokenizer = byte_tokenizer()

    def go_on(self, parent: int, asked: Any, answer: Any, *, gold: bool = True) -> int:
        """A turn whose prompt is the parent's conversation and `asked`."""
        above = self.nodes[parent].turn
        return self.say([*above.messages, above.answer, asked], answer, parent, gold=gold)

    def say(
        self, messages: Sequence[Any], answer: Any, parent: int | None, *, gold: bool = True
    ) -> int:
        """Append a turn; returns its index."""
        at = self._at + 60 * len(self.nodes)
        prompt = "".join(f"<|im_start|>{one['role']}\n{one['content']}" for one in messages[-2:])
        answered = str(answer["content"] or "…")
        turn = Turn(
            turn_id=f"turn-{len(self.nodes)}",
            who=self._who,
            label="internal",
            session="s-1",
            base=self._base,
            adapter=None,
            template=digest_bytes(b"template"),
            messages=tuple(messages),
            answer=answer,
            finish_reason="tool_calls" if answer.get("tool_calls") else "stop",
            sampling=Sampling(temperature=0.7, max_tokens=256, seed=1),
            prompt_ids=self._ids(prompt) if gold else None,
            answer_ids=self._ids(answered) if gold else None,
            logprobs=self._logprobs(answered) if gold else None,
            redacted=("email",) if len(self.nodes) == 3 else (),
            started_at=at,
            ended_at=at + 1.5,
        )
        tier = "gold" if gold else "silver"
        trainable = len(self.nodes) != 3
        self.nodes.append(Node(turn=turn, parent=parent, tier=tier, trainable=trainable))
        return len(self.nodes) - 1

    def _ids(self, text: str) -> ArrayRef:
        ids = self._tokenizer.encode(text).ids
        return self._put("int32", struct.pack(f"<{len(ids)}i", *ids), len(ids))

    def _logprobs(self, text: str) -> ArrayRef:
        num = len(self._tokenizer.encode(text).ids)
        drawn = [-self._noise.expovariate(3) for _ in range(num)]
        return self._put("float32", struct.pack(f"<{num}f", *drawn), num)

    def _put(self, dtype: str, data: bytes, count: int) -> ArrayRef:
        self._arrays.append(data)
        ref = {"digest_of_bytes": digest_bytes(data), "dtype": dtype, "count": count}
        return msgspec.convert(ref, ArrayRef)
