"""Taking the named part of a prompt out of a conversation: pure rules over messages.

Every field of a part that is set must match. With a mark, the text from the first mark to the
second (both included) goes; without one, the whole message. Answers that are trained on stay.
"""

import re
from collections.abc import Collection, Sequence

from appliance.core.recipe import LeaveOut
from appliance.core.records import Json


def without(
    messages: Sequence[Json], parts: Sequence[LeaveOut], *, keep: Collection[int] = ()
) -> list[Json | None]:
    """The messages, None where one was left out; those at the positions in `keep` are untouched."""
    last_user = max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=-1)
    left: list[Json | None] = []
    for position, message in enumerate(messages):
        changed: Json | None = message
        for part in parts:
            if changed is None or position in keep:
                break
            if _matches(part, message, position, last_user):
                changed = _cut(changed, part)
        left.append(changed)
    return left


def _matches(part: LeaveOut, message: Json, position: int, last_user: int) -> bool:
    if part.role is not None and message.get("role") != part.role:
        return False
    if part.positions and position not in part.positions:
        return False
    if part.before_last_user and position >= last_user:
        return False
    return part.mark is None or _span(part.mark).search(message.get("content") or "") is not None


def _cut(message: Json, part: LeaveOut) -> Json | None:
    if part.mark is None:
        return None
    text = _span(part.mark).sub("", message["content"])
    return {**message, "content": text} if text.strip() else None


def _span(mark: tuple[str, str]) -> re.Pattern[str]:
    return re.compile(re.escape(mark[0]) + ".*?" + re.escape(mark[1]), re.DOTALL)
