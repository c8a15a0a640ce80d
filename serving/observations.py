"""What a rollout's test is told of an answer: numbers by metric (`policies.canary`). No I/O.

Both sides are measured alike, so a crude measure costs power, not truth: a refusal is known by
how it begins, in a few languages.
"""

import re
from typing import TYPE_CHECKING

from serving.answers import Answer

if TYPE_CHECKING:
    from serving.exchange import Exchange

_REFUSES = re.compile(
    r"\W*(i['’]m sorry|i am sorry|sorry,|i apologi[sz]e|i can(['’]t|not| not)\b|i won['’]t"
    r"|i['’]m (not able|unable)|i am (not able|unable)|as an ai\b|es tut mir leid"
    r"|ich kann .{0,20}nicht"
    r"|je suis désolé|je ne peux pas|lo siento|no puedo)",
    re.IGNORECASE,
)
_CALL_MARK = "<tool_call>"


def measure(exchange: "Exchange") -> dict[str, float]:
    """What can be said of an exchange that came to its end."""
    tokens = float(exchange.completion_tokens)
    values = {
        "errors": 0.0,
        "longer": tokens,
        "shorter": tokens,
        "refusals": float(any(map(_refuses, exchange.answers))),
    }
    if exchange.tools:
        values["tool_calls"] = float(any(map(_calls_badly, exchange.answers)))
    return values


def _refuses(answer: Answer) -> bool:
    if answer.tool_calls:
        return False
    text = str(answer.message.get("content") or "").strip()
    return not text or _REFUSES.match(text) is not None


def _calls_badly(answer: Answer) -> bool:
    # What does not parse stays in the content, whole.
    return _CALL_MARK in str(answer.message.get("content") or "")
