"""What differs between two answers: their words (or lines), and the tools that they call. Pure.

Each part is bounded, so that no two answers, however long or odd, keep a page waiting.
"""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Literal
from zlib import crc32

import msgspec

Op = Literal["same", "ins", "del"]
Part = tuple[Op, str]

_MAX_WORDS = 2_000
_MAX_WORD_CHARS = 24_000
_MAX_LINES = 2_000
_MAX_LINES_CHARS = 500_000
_MAX_EDITS = 400
_MAX_PARTS = 300
_SHOWN_CHARS = 1_200
"""Of one part. A page holds two answers' worth of parts."""
_ALL_CHARS = 6_000
_MAX_CALL_CHARS = 200_000
_MAX_CALLS = 10
_MAX_DEPTH = 8
_MAX_ARGUMENTS = 20
_ARGUMENT_CHARS = 400
_AROUND = 40
_CHUNK = 1 << 16

# Scripts that put no spaces between words are compared by character.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]\s*|[^\W{_UNSPACED}]+\s*|[^\w\s]\s*|\s+")
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """From the champion's text to the candidate's."""

    by: Literal["word", "line", "nothing"]
    parts: list[Part]
    note: str = ""
    """What is left out, where something is."""


class Call(msgspec.Struct, frozen=True):
    """One tool call of an answer."""

    name: str
    arguments: dict[str, Any]


class Argument(msgspec.Struct, frozen=True):
    """One argument of a call on both sides, as JSON; None where a side does not give it."""

    name: str
    champion: str | None
    candidate: str | None
    same: bool


class CallDifference(msgspec.Struct, frozen=True):
    """Two calls at the same place; an empty name where a side has none."""

    champion: str
    candidate: str
    arguments: list[Argument]
    same: bool


def text_difference(champion: str, candidate: str) -> Difference:
    """By words, of long texts by lines; of what has too many lines, where it begins to differ."""
    for by, split, most in (("word", _words, _MAX_WORDS), ("line", _lines, _MAX_LINES)):
        before, after = split(champion), split(candidate)
        if before is None or after is None:
            continue
        start, end = _shared_ends(before, after)
        if max(len(before), len(after)) - start - end <= most:
            return _bounded(by, _parts(before, after, start, end))  # type: ignore[arg-type]
    return Difference(by="nothing", parts=[], note=_where_it_differs(champion, candidate))


def tool_calls(text: str) -> list[Call]:
    """The calls that a text makes: Hermes blocks, or JSON that is a call, or a list of calls."""
    if len(text) > _MAX_CALL_CHARS:
        return []
    # A model that stops right after the JSON has made its call as well: the end may be missing.
    blocks = [block.partition(_CLOSE)[0] for block in text.split(_OPEN)[1:]]
    found: list[Call] = []
    for block in blocks or [text]:
        if block.lstrip()[:1] in ("{", "["):
            found += _calls_of(_json(block))
    return found[:_MAX_CALLS]


def call_differences(champion: Sequence[Call], candidate: Sequence[Call]) -> list[CallDifference]:
    """The calls side by side, paired where they name the same tool in the same order."""
    matcher = SequenceMatcher(None, [c.name for c in champion], [c.name for c in candidate], False)
    pairs: list[tuple[Call | None, Call | None]] = []
    for _, a, a_end, b, b_end in matcher.get_opcodes():
        pairs += zip_longest(champion[a:a_end], candidate[b:b_end])
    return [_compare(before, after) for before, after in pairs]


def _compare(before: Call | None, after: Call | None) -> CallDifference:
    ours, theirs = (call.arguments if call else {} for call in (before, after))
    arguments = [
        Argument(
            name=name,
            champion=_show(ours[name]) if name in ours else None,
            candidate=_show(theirs[name]) if name in theirs else None,
            same=name in ours and name in theirs and _show(ours[name]) == _show(theirs[name]),
        )
        for name in [*ours, *(name for name in theirs if name not in ours)][:_MAX_ARGUMENTS]
    ]
    names = before.name if before else "", after.name if after else ""
    same = names[0] == names[1] and ours == theirs
    return CallDifference(*names, arguments, same)


def _show(value: Any) -> str:
    try:
        shown = _plain(json.dumps(value, ensure_ascii=False, sort_keys=True))
    except RecursionError:
        return "(nested too deeply)"
    if len(shown) <= _ARGUMENT_CHARS:
        return shown
    # What is cut stays comparable: the end says what the rest was.
    return f"{shown[:_ARGUMENT_CHARS]} […{len(shown)} characters, {crc32(shown.encode()):08x}]"


def _plain(text: str) -> str:
    """JSON can spell halves of characters, which no page can carry."""
    return text.encode(errors="replace").decode()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _calls_of(value: Any, depth: int = 0) -> list[Call]:
    if depth > _MAX_DEPTH:
        return []
    if isinstance(value, list):
        return [call for one in value[:_MAX_CALLS] for call in _calls_of(one, depth + 1)]
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("tool_calls"), list):
        return _calls_of(value["tool_calls"], depth + 1)
    if isinstance(value.get("function"), dict):
        return _calls_of(value["function"], depth + 1)
    arguments = value.get("arguments", value.get("parameters"))
    # On OpenAI's wire the arguments are a JSON text.
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if isinstance(value.get("name"), str) and isinstance(arguments, dict):
        return [Call(_plain(value["name"]), {_plain(k): v for k, v in arguments.items()})]
    return []


def _words(text: str) -> list[str] | None:
    return _WORD.findall(text) if len(text) <= _MAX_WORD_CHARS else None


def _lines(text: str) -> list[str] | None:
    return text.splitlines(keepends=True) if len(text) <= _MAX_LINES_CHARS else None


def _shared_ends(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """How many units both begin with, and end with."""
    shorter = min(len(before), len(after))
    start = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    rest = shorter - start
    end = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    return start, end


def _parts(before: Sequence[str], after: Sequence[str], start: int, end: int) -> list[Part]:
    a, b = before[start : len(before) - end], after[start : len(after) - end]
    parts: list[Part] = [("same", "".join(before[:start]))]
    i = j = 0
    for i_next, j_next, size in _shared_runs(a, b):
        parts += [("del", "".join(a[i:i_next])), ("ins", "".join(b[j:j_next]))]
        parts.append(("same", "".join(a[i_next : i_next + size])))
        i, j = i_next + size, j_next + size
    parts.append(("same", "".join(before[len(before) - end :])))
    return [part for part in parts if part[1]]


def _shared_runs(a: Sequence[str], b: Sequence[str]) -> Iterable[tuple[int, int, int]]:
    """(start in a, start in b, length) of what both have, in order; the last one is empty.

    Shortest edit script where that is short. Otherwise difflib's heuristic, which passes over
    units that come often, and so stays quick where nearly nothing is shared.
    """
    return _myers(a, b) or SequenceMatcher(None, a, b).get_matching_blocks()


def _myers(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int, int]] | None:
    """The greedy algorithm of Myers (Algorithmica 1, 1986), up to `_MAX_EDITS` edits."""
    furthest = {1: 0}
    trail: list[dict[int, int]] = []
    for edits in range(_MAX_EDITS + 1):
        trail.append(dict(furthest))
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            while x < len(a) and x - k < len(b) and a[x] == b[x - k]:
                x += 1
            furthest[k] = x
            if x >= len(a) and x - k >= len(b):
                return _back(trail, len(a), len(b))
    return None


def _back(trail: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int, int]]:
    """From the end back to the start, along what each number of edits had reached."""
    runs = [(x, y, 0)]
    for edits in range(len(trail) - 1, -1, -1):
        before, k = trail[edits], x - y
        down = k == -edits or (k != edits and before[k - 1] < before[k + 1])
        from_x = before[k + 1] if down else before[k - 1]
        from_y = from_x - (k + 1 if down else k - 1)
        start = (from_x if down else from_x + 1) if edits else 0
        if x > start:
            runs.append((start, start - k, x - start))
        x, y = from_x, from_y
    return runs[::-1]


def _bounded(by: Literal["word", "line"], parts: list[Part]) -> Difference:
    """Long parts cut in their middle; the rest left out, and said so, where there is too much."""
    shown: list[Part] = []
    room = _ALL_CHARS
    for op, text in parts[:_MAX_PARTS]:
        if room <= 0:
            break
        cut = _cut(text)
        shown.append((op, cut))
        room -= len(cut)
    left = len(parts) - len(shown)
    note = f"{left} further parts are left out" if left else ""
    return Difference(by=by, parts=shown, note=note)


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARS:
        return text
    half = _SHOWN_CHARS // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters…] {text[-half:]}"


def _where_it_differs(champion: str, candidate: str) -> str:
    at = _first_difference(champion, candidate)
    lengths = f"{len(champion)} and {len(candidate)} characters"
    if len(champion) == len(candidate) == at:
        return f"both say the same ({lengths})"
    around = slice(max(at - _AROUND, 0), at + _AROUND)
    return (
        f"too long to compare ({lengths}); they differ from character {at + 1} on: "
        f"{champion[around]!r} became {candidate[around]!r}"
    )


def _first_difference(champion: str, candidate: str) -> int:
    """By chunks, so that ten megabytes take milliseconds."""
    longer = max(len(champion), len(candidate))
    for at in range(0, longer, _CHUNK):
        a, b = champion[at : at + _CHUNK], candidate[at : at + _CHUNK]
        if a != b:
            shared = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
            return at + next(shared, min(len(a), len(b)))
    return longer
