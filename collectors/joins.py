"""Which turn goes on from which: pure rules over token ids and messages.

A turn goes on from an earlier one when its prompt starts with exactly the earlier prompt and
answer: the same token ids, or, where one of the two has none, the same messages. The longest such
turn is its parent. Anything else, a rewritten history for one, opens a branch or a new root.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from appliance.core.records import Json, Turn

_ID_BYTES = 4


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """What joining looks at in one turn."""

    turn_id: str
    choice: int
    started_at: float
    ended_at: float
    prompt_ids: bytes | None
    """int32 little-endian, as in the object store."""
    end_ids: bytes | None
    """Prompt and answer."""
    texts: tuple[str, ...]
    """texts[k] is a digest of the first k + 1 messages; the last one includes the answer."""

    @property
    def age(self) -> tuple[float, float, str, int]:
        """A total order that does not depend on delivery."""
        return (self.started_at, self.ended_at, self.turn_id, self.choice)


def link_of(turn: Turn, prompt_ids: bytes | None, answer_ids: bytes | None) -> Link:
    """The link of a turn, given the bytes of its arrays where it has them."""
    whole = prompt_ids is not None and answer_ids is not None
    return Link(
        turn_id=turn.turn_id,
        choice=turn.choice,
        started_at=turn.started_at,
        ended_at=turn.ended_at,
        prompt_ids=prompt_ids if whole else None,
        end_ids=prompt_ids + answer_ids if prompt_ids is not None and answer_ids else None,
        texts=tuple(text_chain((*turn.messages, turn.answer))),
    )


def text_chain(messages: Sequence[Json]) -> Iterator[str]:
    """For each message, a digest of the conversation up to and with it."""
    state = hashlib.sha256()
    for message in messages:
        state.update(_identity(message))
        yield state.hexdigest()


def goes_on(link: Link, earlier: Link) -> bool:
    """Whether `link`'s prompt starts with all of `earlier`."""
    if link.prompt_ids is not None and earlier.end_ids is not None:
        return (
            link.prompt_ids.startswith(earlier.end_ids)
            # These two keep the relation free of circles, whatever comes.
            and earlier.end_ids != earlier.prompt_ids
            and len(earlier.texts) <= len(link.texts)
        )
    return len(earlier.texts) < len(link.texts) and earlier.texts[-1] in link.texts[:-1]


def preference(link: Link, earlier: Link) -> tuple[Any, ...]:
    """Sorts candidate parents, best last: the longest; of twins, the last that had ended."""
    return (
        len(earlier.texts),
        len(earlier.end_ids or b""),
        earlier.ended_at <= link.started_at,
        earlier.ended_at,
        earlier.age,
    )


def forest(links: Sequence[Link]) -> list[int | None]:
    """For each link the index of its parent, None for a root."""
    by_ids: dict[bytes, list[int]] = {}
    by_text: dict[str, list[int]] = {}
    for index, link in enumerate(links):
        by_text.setdefault(link.texts[-1], []).append(index)
        if link.end_ids is not None:
            by_ids.setdefault(link.end_ids, []).append(index)
    lengths = sorted({len(ids) for ids in by_ids})
    return [_parent(links, i, by_ids, by_text, lengths) for i in range(len(links))]


def roots(parents: Sequence[int | None]) -> list[int]:
    """For each index, the index of its root."""
    found: list[int] = []
    for index in range(len(parents)):
        current = index
        while (above := parents[current]) is not None:
            current = above
        found.append(current)
    return found


def in_order(links: Sequence[Link], parents: Sequence[int | None]) -> list[int]:
    """Indices with every parent before its children, siblings by age."""
    children: dict[int | None, list[int]] = {}
    for index in sorted(range(len(links)), key=lambda i: links[i].age, reverse=True):
        children.setdefault(parents[index], []).append(index)
    order: list[int] = []
    waiting = children.get(None, [])
    while waiting:
        index = waiting.pop()
        order.append(index)
        waiting += children.get(index, [])
    return order


def ids_digest(ids: bytes) -> str:
    """What the index keeps of a run of token ids."""
    return hashlib.sha256(ids).hexdigest()


def prefix_digests(ids: bytes, ends: Sequence[int]) -> list[str]:
    """`ids_digest` of each prefix; `ends` rise, in bytes."""
    state = hashlib.sha256()
    digests: list[str] = []
    start = 0
    for end in ends:
        state.update(ids[start:end])
        digests.append(state.copy().hexdigest())
        start = end
    return digests


def num_ids(ids: bytes | None) -> int | None:
    """Tokens in an int32 array's bytes."""
    return None if ids is None else len(ids) // _ID_BYTES


def _parent(
    links: Sequence[Link],
    index: int,
    by_ids: dict[bytes, list[int]],
    by_text: dict[str, list[int]],
    lengths: list[int],
) -> int | None:
    link = links[index]
    candidates: list[int] = []
    if link.prompt_ids is not None:
        for length in lengths:
            if length > len(link.prompt_ids):
                break
            candidates += by_ids.get(link.prompt_ids[:length], ())
    for text in link.texts[:-1]:
        candidates += by_text.get(text, ())
    fitting = [i for i in candidates if i != index and goes_on(link, links[i])]
    return max(fitting, key=lambda i: preference(link, links[i]), default=None)


def _identity(message: Json) -> bytes:
    """A message as it counts for joining: clients drop nulls and reorder fields when they echo."""
    if not isinstance(message, dict):
        return json.dumps(message, sort_keys=True).encode() + b"\n"
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    content = message.get("content") or ""
    body = [message.get("role"), content, calls, message.get("tool_call_id") or ""]
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _call(call: Json) -> Json:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return [function.get("name"), arguments]
