"""What a client asks for and how its protocol writes the answer: all that the protocols share.

OpenAI's chat, completions and responses and Anthropic's messages are read into one `Ask`, go
through one `Gateway.reply`, and come out by their own `Shape`.
"""

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from serving.openai_errors import ApiError
from serving.tool_choice import ToolChoice

if TYPE_CHECKING:
    from serving.exchange import Exchange


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request, whatever protocol it came in."""

    model: str
    prompt_ids: list[int]
    messages: tuple[Any, ...]
    """As the record keeps them: in OpenAI's chat form."""
    prompt_param: str = "messages"
    """The parameter that the prompt came in, for messages about it."""
    tools: tuple[Any, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    chat: bool = True
    """Whether the base's template made the prompt."""
    n: int = 1
    max_tokens: int | None = None
    """None is whatever the context has left."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    json_schema: str = ""
    """A checked JSON schema that the answer has to meet; empty asks for none."""
    top_logprobs: int = 0
    stream: bool = False
    user: str | None = None
    """Whom the client says that it asks for."""


class Shape(Protocol):
    """How one protocol writes one answer. No I/O.

    A stream is `begin` once, then `piece` for each new text, then `end`, or `failure` where the
    engine dies in the middle; each returns the bytes of no, one or many events.
    """

    prefix: str
    """What the request's id begins with."""

    def whole(self, exchange: "Exchange") -> bytes:
        """The body of an answer that is not streamed."""

    def begin(self, exchange: "Exchange") -> bytes:
        """What stands before the first text."""

    def piece(self, exchange: "Exchange", index: int, text: str, first: int) -> bytes:
        """New text of a choice, which begins with its token number `first`."""

    def end(self, exchange: "Exchange") -> bytes:
        """Tool calls, why each choice ended, and what the answer cost."""

    def failure(self, exchange: "Exchange", error: ApiError) -> bytes:
        """What the client is told when the answer cannot go on."""


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    body = b"data: %s\n\n" % msgspec.json.encode(data)
    return b"event: %s\n%s" % (name.encode(), body) if name else body
