"""The texts of a sample, read from disk one part at a time, and cut to what a page may hold."""

import json
from typing import Any

import msgspec

from appliance.control.reading.sample_index import Index, Sample, Side, Span
from appliance.core.digests import Digest
from appliance.core.objects import ObjectStore

SHOWN_CHARS = 4_000
_CHECK_CHARS = 2_000
_PROMPT_CHARS = 6_000
_MESSAGES = 20
_GLANCE_CHARS = 160
_GLANCE_BYTES = 1 << 14
"""Of a longer line only the beginning is read for the list."""
_PROMPT_BYTES = 1 << 20
_TEXT = b'"text":"'


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a row of the list."""

    text: str
    outcome: str
    logprob: float | None


class Text(msgspec.Struct, frozen=True):
    """A text's first `SHOWN_CHARS`, and how long it is."""

    text: str
    num_chars: int

    @property
    def cut(self) -> bool:
        """Whether there is more."""
        return len(self.text) < self.num_chars


class Message(msgspec.Struct, frozen=True):
    """One message of the prompt."""

    role: str
    text: Text


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One side."""

    text: Text
    outcome: str
    detail: str
    logprob: float | None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, and how the answer was judged."""

    prompt: list[Message]
    """Empty where the suite was not kept."""
    check: Text
    check_kind: str


class Said(msgspec.Struct, frozen=True):
    """An answer's line, as evaluation wrote it."""

    text: str
    outcome: str
    detail: str = ""
    logprob: float | None = None


_said = msgspec.json.Decoder(Said)


class Reader:
    """Reads what an index points at."""

    def __init__(self, store: ObjectStore, index: Index) -> None:
        self._store = store
        self._index = index

    def glance(self, side: Side) -> Glance:
        """The beginning of an answer; of a long one no more than that is read."""
        if side.size <= _GLANCE_BYTES:
            text = self.answer(side).text
        else:
            spans = [(side.offset, _GLANCE_BYTES)]
            (line,) = self._store.parts_unverified(self._index.outputs, spans)
            text = _beginning(line)
        return Glance(text=text[:_GLANCE_CHARS], outcome=side.outcome, logprob=side.logprob)

    def answer(self, side: Side) -> Said:
        """The whole answer.

        Raises:
            IntegrityError: it was changed on disk.
        """
        return _said.decode(self._part(self._index.outputs, side))

    def item(self, sample: Sample) -> Any:
        """The item as JSON; None where its suite was not kept.

        Raises:
            IntegrityError: it was changed on disk.
        """
        if sample.item is None:
            return None
        return msgspec.json.decode(self._part(self._index.suites[sample.suite], sample.item))

    def last_words(self, sample: Sample) -> str:
        """The beginning of the prompt's last message."""
        if sample.item is None or sample.item.size > _PROMPT_BYTES:
            return ""
        messages = self.item(sample)["messages"]
        return text_of(messages[-1])[:_GLANCE_CHARS] if messages else ""

    def asked(self, sample: Sample) -> Asked:
        """Prompt and check."""
        item = self.item(sample)
        if item is None:
            return Asked(prompt=[], check=Text("", 0), check_kind="")
        check = item["check"]
        return Asked(
            prompt=_messages(item["messages"]),
            check=cut(json.dumps(check, ensure_ascii=False, indent=1), _CHECK_CHARS),
            check_kind=str(check.get("kind", "")) if isinstance(check, dict) else "",
        )

    def _part(self, digest: Digest, span: Span) -> bytes:
        (data,) = self._store.parts_unverified(digest, [(span.offset, span.size)])
        return span.require(data)


def text_of(message: Any) -> str:
    """What a chat message says: its text, else whatever it holds as JSON."""
    if isinstance(message, dict) and not message.get("tool_calls"):
        content = message.get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            return "\n".join(str(part.get("text", "")) for part in content)
    return json.dumps(message, ensure_ascii=False)


def shown(said: Said) -> Answer:
    """An answer as a page shows it."""
    return Answer(
        text=cut(said.text),
        outcome=said.outcome,
        detail=said.detail[:SHOWN_CHARS],
        logprob=said.logprob,
    )


def cut(text: str, most: int = SHOWN_CHARS) -> Text:
    """A text as a page shows it."""
    return Text(text[:most], len(text))


def _messages(messages: list[Any]) -> list[Message]:
    """The prompt: of a long one its last message whole, and of the others as much as fits."""
    shown: list[Message] = []
    room = _PROMPT_CHARS
    for one in reversed(messages[-_MESSAGES:]):
        text = cut(text_of(one), min(SHOWN_CHARS, room))
        shown.append(Message(_role(one), text))
        room -= len(text.text)
    if len(messages) > _MESSAGES:
        earlier = f"({len(messages) - _MESSAGES} earlier messages)"
        shown.append(Message("earlier", cut(earlier)))
    return shown[::-1]


def _role(message: Any) -> str:
    return str(message.get("role", "")) if isinstance(message, dict) else ""


def _beginning(line: bytes) -> str:
    """The first characters of the text in a line that was not read to its end."""
    # Within a JSON string every quote has a backslash before it, so this is the key.
    _, _, rest = line.partition(_TEXT)
    text = rest[: 4 * _GLANCE_CHARS]
    # The cut may have gone through an escape or a character: the longest beginning that is JSON.
    for end in range(len(text), max(len(text) - 12, 0), -1):
        try:
            return str(msgspec.json.decode(b'"' + text[:end] + b'"', type=str))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return ""
