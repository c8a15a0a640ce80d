"""What clients send to ``/v1/responses``, and the chat that it means.

Nothing is stored here, so a request carries the whole conversation: `previous_response_id` and
`conversation` are refused. A field that would change the answer and that we do not have is a 400.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from policies.redaction import MAX_NESTING, is_too_deep
from serving.openai.wire import Describing, MaxTokens, Message, Temperature, TopP
from serving.openai_errors import ApiError, unsupported
from serving.reading import decode
from serving.structured import schema_of
from serving.tool_choice import ToolChoice, from_openai

LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
_WITHOUT = ("previous_response_id", "conversation", "prompt", "background", "context_management")


class ResponseRequest(Describing, frozen=True, kw_only=True):
    """Body of ``/v1/responses``."""

    model: str
    input: str | Annotated[list[Message], Meta(min_length=1)]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: Any = None
    user: Any = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: Any = None
    context_management: Any = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation in chat's form.

        Raises:
            ApiError: 400, an item that no chat can carry.
        """
        begin = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return (*begin, {"role": "user", "content": self.input})
        messages: list[Message] = begin
        for index, item in enumerate(self.input):
            _add(messages, item, index)
        return tuple(messages)

    @property
    def choice(self) -> ToolChoice:
        """Whether and how tools are called."""
        return from_openai(self.tool_choice, self.parallel_tool_calls)

    @property
    def chat_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools in chat's form; none where none may be called."""
        if self.choice.none:
            return ()
        return tuple(_tool(tool, index) for index, tool in enumerate(self.tools or ()))

    @property
    def json_schema(self) -> str:
        """The schema that `text.format` asks for; empty where it asks for text."""
        wanted = (self.text or {}).get("format")
        if wanted is not None and not isinstance(wanted, dict):
            raise ApiError(400, "text.format must be an object", param="text")
        return schema_of(wanted, "text")

    @property
    def wants_logprobs(self) -> bool:
        """Whether logprobs are part of the answer."""
        return LOGPROBS in (self.include or ())


_decoder = msgspec.json.Decoder(ResponseRequest)


def parse_response(body: bytes) -> ResponseRequest:
    """A request to ``/v1/responses``.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    request = decode(_decoder, body)
    for name in _WITHOUT:
        if getattr(request, name):
            raise ApiError(400, f"{name}: not supported here; leave it out", param=name)
    for name in ("input", "tools", "text"):
        # What could not be redacted could not be logged, and must not be answered.
        if is_too_deep(getattr(request, name)):
            raise ApiError(400, f"{name}: nested deeper than {MAX_NESTING} levels", param=name)
    if request.truncation not in (None, "disabled"):
        raise unsupported("truncation", "'disabled'", request.truncation)
    if (request.reasoning or {}).get("effort") not in (None, "none"):
        raise unsupported("reasoning", "effort 'none'", request.reasoning)
    if left := set(request.include or ()) - {LOGPROBS, _ENCRYPTED}:
        raise unsupported("include", repr(LOGPROBS), sorted(left))
    if request.top_logprobs and not request.wants_logprobs:
        raise ApiError(400, f"top_logprobs needs include: [{LOGPROBS!r}]", param="top_logprobs")
    return request


def _add(messages: list[Message], item: Message, index: int) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append({"role": item.get("role"), "content": _text(item.get("content"), index)})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        # What the assistant said and the calls that it made with it are one message of a chat.
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _text(item.get("output"), index)
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    else:
        known = "'message', 'function_call' or 'function_call_output'"
        raise unsupported("input", f"type {known}", kind, at=f"input[{index}]")


def _text(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise ApiError(400, f"input[{index}]: content must be text or text parts", param="input")


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        raise unsupported("tools", "type 'function' with a name", tool, at=f"tools[{index}]")
    names = ("name", "description", "parameters")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}
