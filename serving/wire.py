"""What clients send, in OpenAI's shape. Parsed once, here; what we cannot honour is refused.

Fields that only describe (``user``, ``metadata``, ``store``) may be there and are ignored. A field
that would change the answer and that we do not have is a 400, never silently dropped.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from policies.redaction import MAX_NESTING, is_too_deep
from serving.openai_errors import ApiError

MAX_CHOICES = 16
MAX_STOPS = 16
_MISSING = "nothing else is supported here"

Message = dict[str, Any]
MaxTokens = Annotated[int, Meta(ge=1, le=1 << 24)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Seed = Annotated[int, Meta(ge=-(2**53) + 1, le=2**53 - 1)]
"""Within what JSON can hold exactly, because it stands in a record."""
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Stop = str | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOPS)] | None


class StreamOptions(msgspec.Struct, frozen=True):
    """``stream_options``."""

    include_usage: bool = False


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What both routes have. `None` is OpenAI's way to say default."""

    model: str
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Choices | None = None
    seed: Seed | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, none of them empty."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Common, frozen=True, kw_only=True):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    functions: Any = None
    modalities: list[str] | None = None


class CompletionRequest(Common, frozen=True, kw_only=True):
    """Body of ``/v1/completions``. `prompt` is one text, or the ids of one."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


R = TypeVar("R", bound=Common)

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """A chat request.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    request = _decode(_chat, body)
    _require_supported(request)
    # What could not be redacted could not be logged, and must not be answered.
    for name in ("messages", "tools"):
        if is_too_deep(getattr(request, name)):
            raise ApiError(400, f"{name}: nested deeper than {MAX_NESTING} levels", param=name)
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if request.functions:
        raise ApiError(400, "functions: use tools instead", param="functions")
    if request.response_format and request.response_format.get("type") != "text":
        raise ApiError(400, f"response_format 'text': {_MISSING}", param="response_format")
    if request.modalities and request.modalities != ["text"]:
        raise ApiError(400, f"modalities ['text']: {_MISSING}", param="modalities")
    if request.tool_choice not in (None, "auto", "none"):
        raise ApiError(400, f"tool_choice 'auto' or 'none': {_MISSING}", param="tool_choice")
    return request


def parse_completion(body: bytes) -> CompletionRequest:
    """A completion request.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    request = _decode(_completion, body)
    _require_supported(request)
    if request.echo:
        raise ApiError(400, f"echo false: {_MISSING}", param="echo")
    if request.suffix:
        raise ApiError(400, f"suffix empty: {_MISSING}", param="suffix")
    if request.best_of not in (None, 1, request.n):
        raise ApiError(400, f"best_of equal to n: {_MISSING}", param="best_of")
    return request


def _decode(decoder: "msgspec.json.Decoder[R]", body: bytes) -> R:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error), param=_param(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error


def _require_supported(request: Common) -> None:
    for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
        if getattr(request, name):
            raise ApiError(400, f"{name} 0 or empty: {_MISSING}", param=name)
    if "" in request.stops:
        raise ApiError(400, "a stop string must not be empty", param="stop")


def _param(message: str) -> str | None:
    """The parameter that msgspec names: ``… - at `$.temperature```, or a missing field."""
    _, found, path = message.rpartition("at `$.")
    if found:
        return path.rstrip("`")
    _, found, name = message.partition("missing required field `")
    return name.rstrip("`") if found else None
