"""What versions say when they are talked to: events of a stream, and the answers they add up to."""

from typing import Any

import msgspec

from appliance.control.reading.talk import Version


class Token(msgspec.Struct, frozen=True):
    """One token as it was sampled."""

    text: str
    prob: float
    top: list[tuple[str, float]]


class Ended(msgspec.Struct, frozen=True):
    """How an answer ended."""

    finish_reason: str
    seconds: float
    tool_calls: list[Any] = []


class Problem(msgspec.Struct, frozen=True):
    """Why it did not, or broke off."""

    message: str
    next_step: str


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of one side: exactly one of the others is set."""

    side: int
    adapter: str | None = None
    """Who really answers, as the gateway says: a digest, or ``base``."""
    text: str | None = None
    token: Token | None = None
    done: Ended | None = None
    error: Problem | None = None


class Answer(msgspec.Struct, kw_only=True):
    """What one side has said so far."""

    version: Version
    adapter: str = ""
    text: str = ""
    tokens: list[Token] = []
    done: Ended | None = None
    error: Problem | None = None

    def hear(self, said: Said) -> None:
        """Take one event in."""
        self.adapter = said.adapter or self.adapter
        self.text += said.text or ""
        if said.token is not None:
            self.tokens.append(said.token)
        self.done = said.done or self.done
        self.error = said.error or self.error

    def shown_tokens(self, most: int) -> list[dict[str, Any]]:
        """The first tokens, for a picture of how likely each was."""
        return [{"text": t.text, "prob": t.prob, "trained": None} for t in self.tokens[:most]]

    def least_likely(self, most: int) -> list[Token]:
        """The tokens where it was least sure, in the order in which they stand."""
        ranked = sorted(range(len(self.tokens)), key=lambda at: self.tokens[at].prob)[:most]
        return [self.tokens[at] for at in sorted(ranked)]
