"""How a turn is shown: what was said anew in it, cut to what fits on a page."""

import html
import json
from collections.abc import Iterable, Sequence

import msgspec

from appliance.control.reading.turn_tree import Branch, Tree, conversation, num_repeated
from appliance.core.digests import Digest
from appliance.core.records import Json, Sampling

TURNS = 20
TEXT_MAX = 4000

_MESSAGES_MAX = 12
_TURN_BYTES = 36_000
_PAGE_BYTES = 72_000
_LEAST = 80
"""Characters of a text that are always shown."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One message."""

    role: str
    text: str
    """Cut; `num_characters` says how long it is, and its own address gives all of it."""
    num_characters: int
    calls: tuple[tuple[str, str], ...] = ()
    """Tools that are called: name, and the arguments as they read best."""
    place: int | None = None
    """Index in the turn's messages; None is the answer."""

    @property
    def is_cut(self) -> bool:
        """Whether more was said than is shown."""
        return len(self.text) < self.num_characters


class TurnView(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the tree."""

    node: int
    parent: int | None
    num_children: int
    is_branch: bool
    """It does not follow the turn that stands before it."""
    turn_id: str
    choice: int
    new: tuple[Said, ...]
    """Messages of the prompt that the parent's conversation does not hold."""
    num_left_out: int
    """Further new messages, before those."""
    answer: Said
    finish_reason: str
    sampling: Sampling | None
    base: Digest | None
    adapter: Digest | None
    origin: str
    tier: str | None
    trainable: bool | None
    redacted: tuple[str, ...]
    started_at: float
    ended_at: float
    num_prompt_tokens: int | None
    num_answer_tokens: int | None


def views(tree: Tree, *, after: int, most: int) -> list[TurnView]:
    """Turns from index `after` on: as many as `most`, or as fit on a page (one in any case)."""
    room = _PAGE_BYTES
    shown: list[TurnView] = []
    children = [branch.parent for branch in tree.branches]
    for node in range(after, min(after + most, len(tree.branches))):
        budget = _Budget(_TURN_BYTES)
        one = _view(tree.branches, node, children.count(node), budget)
        room -= budget.spent
        if room < 0 and shown:
            break
        shown.append(one)
    return shown


def said(message: Json, place: int | None = None, most: int = TEXT_MAX) -> Said:
    """One message of a turn, its text cut to `most` characters."""
    text = text_of(message)
    calls = (message.get("tool_calls") or ()) if isinstance(message, dict) else ()
    shown = tuple(_call(call, most) for call in calls)
    role = str(message.get("role", "")) if isinstance(message, dict) else ""
    return Said(role=role, text=text[:most], num_characters=len(text), calls=shown, place=place)


def text_of(message: Json) -> str:
    """A message's text; of a message in parts, the texts, and a word for what is none."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return "" if content is None else json.dumps(content, ensure_ascii=False)
    return "\n".join(_part(part) for part in content)


class _Budget:
    """What a turn may take of a page, in bytes of HTML."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self.spent = 0

    def said(self, message: Json, place: int | None = None) -> Said:
        most = TEXT_MAX
        one = said(message, place, most)
        while (cost := _cost(one)) > self._left and most > _LEAST:
            most //= 2
            one = said(message, place, most)
        self._left -= cost
        self.spent += cost
        return one


def _view(branches: Sequence[Branch], node: int, num_children: int, budget: _Budget) -> TurnView:
    branch = branches[node]
    turn, messages = branch.held, branch.messages
    above = () if branch.parent is None else conversation(branches[branch.parent])
    new = range(num_repeated(messages, above), len(messages))
    # The answer, then what came last before it: that is what it answers.
    answer = budget.said(turn.answer)
    shown = [budget.said(messages[place], place) for place in reversed(new[-_MESSAGES_MAX:])]
    return TurnView(
        node=node,
        parent=branch.parent,
        num_children=num_children,
        is_branch=node > 0 and branch.parent != node - 1,
        turn_id=turn.turn_id,
        choice=turn.choice,
        new=tuple(reversed(shown)),
        num_left_out=len(new) - len(shown),
        answer=answer,
        finish_reason=turn.finish_reason,
        sampling=turn.sampling,
        base=turn.base,
        adapter=turn.adapter,
        origin=turn.origin,
        tier=branch.tier,
        trainable=branch.trainable,
        redacted=turn.redacted,
        started_at=turn.started_at,
        ended_at=turn.ended_at,
        num_prompt_tokens=turn.prompt_ids.count if turn.prompt_ids else None,
        num_answer_tokens=turn.answer_ids.count if turn.answer_ids else None,
    )


def _cost(one: Said) -> int:
    texts: Iterable[str] = (one.text, *(text for call in one.calls for text in call))
    return sum(len(html.escape(text).encode("utf-8", "replace")) for text in texts)


def _call(call: Json, most: int) -> tuple[str, str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ("", json.dumps(call, ensure_ascii=False)[:most])
    return (str(function.get("name", ""))[:256], _pretty(function.get("arguments"))[:most])


def _pretty(arguments: Json) -> str:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            # A model may write what is no JSON: as it wrote it.
            return str(arguments)
    return json.dumps(arguments, ensure_ascii=False, indent=2)


def _part(part: Json) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    return f"[{kind or 'part'}]"
