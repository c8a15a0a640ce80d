"""What clients send, in OpenAI's shape. Parsed once, here; what we cannot honour is refused.

Fields that only describe (`Describing`) may be there and are ignored; ``user`` tells one
conversation from another while a rollout is under way. Any other field that we do not have is a
400, never silently dropped: it could change the answer, or be a slip of the pen.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from policies.redaction import MAX_NESTING, is_too_deep
from serving.openai_errors import ApiError, unsupported
from serving.reading import decode
from serving.structured import schema_of
from serving.tool_choice import ToolChoice, from_openai

MAX_CHOICES = 16
MAX_STOPS = 16

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


class Describing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields that say something about a request, and change nothing of its answer here."""

    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None


class Common(Describing, frozen=True, kw_only=True):
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
    user: Any = None
    return_token_ids: bool | None = None
    """vLLM's name: `prompt_token_ids` and `token_ids` in the answer."""

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def sampling(self) -> dict[str, Any]:
        """The fields of an `Ask` that both routes say alike."""
        return {
            "model": self.model,
            "n": self.n or 1,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p or 1.0,
            "seed": self.seed,
            "stops": self.stops,
            "stream": bool(self.stream),
            "user": self.user if isinstance(self.user, str) else None,
        }

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
    parallel_tool_calls: bool | None = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    functions: Any = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    prediction: Any = None
    """It would save time, and change nothing."""

    @property
    def choice(self) -> ToolChoice:
        """Whether and how tools are called."""
        return from_openai(self.tool_choice, self.parallel_tool_calls)

    @property
    def json_schema(self) -> str:
        """The schema that `response_format` asks for; empty where it asks for text."""
        return schema_of(self.response_format, "response_format")


class CompletionRequest(Common, frozen=True, kw_only=True):
    """Body of ``/v1/completions``. `prompt` is one text, or the ids of one."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """A chat request.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    request = decode(_chat, body)
    _require_supported(request)
    # What could not be redacted could not be logged, and must not be answered.
    for name in ("messages", "tools"):
        if is_too_deep(getattr(request, name)):
            raise ApiError(400, f"{name}: nested deeper than {MAX_NESTING} levels", param=name)
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if request.functions:
        raise ApiError(400, "functions: use tools instead", param="functions")
    if request.reasoning_effort not in (None, "none"):
        raise unsupported("reasoning_effort", "'none'", request.reasoning_effort)
    if request.modalities and request.modalities != ["text"]:
        raise unsupported("modalities", "['text']", request.modalities)
    return request


def parse_completion(body: bytes) -> CompletionRequest:
    """A completion request.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    request = decode(_completion, body)
    _require_supported(request)
    if request.echo:
        raise unsupported("echo", "false", request.echo)
    if request.suffix:
        raise unsupported("suffix", "none", request.suffix)
    if request.best_of not in (None, 1, request.n):
        raise unsupported("best_of", f"n ({request.n})", request.best_of)
    return request


def _require_supported(request: Common) -> None:
    for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
        if getattr(request, name):
            raise unsupported(name, "0 or nothing", getattr(request, name))
    if "" in request.stops:
        raise ApiError(400, "a stop string must not be empty", param="stop")
