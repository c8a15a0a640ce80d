"""What clients send in Anthropic's shape, and the chat that it means.

Fields that only describe or only save work (``metadata``, ``cache_control``, ``service_tier``)
may be there and are ignored. Any other field that we do not have is a 400: it could change the
answer, or be a slip of the pen.
"""

import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from policies.redaction import MAX_NESTING, is_too_deep
from serving.openai.wire import MAX_STOPS, MaxTokens, Message, TopP
from serving.openai_errors import ApiError, unsupported
from serving.reading import decode
from serving.structured import schema_of
from serving.tool_choice import ToolChoice, from_anthropic

Temperature = Annotated[float, Meta(ge=0, le=1)]
Stops = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOPS)]

_FAILED = "Error: "


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``/v1/messages/count_tokens``: what makes the prompt."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    metadata: Any = None
    service_tier: Any = None
    cache_control: Any = None

    @property
    def chat_messages(self) -> tuple[Message, ...]:
        """The conversation in OpenAI's chat form.

        Raises:
            ApiError: 400, a message or block that no chat can carry.
        """
        begin = [{"role": "system", "content": _text(self.system, "system")}] if self.system else []
        rest = [
            part for index, message in enumerate(self.messages) for part in _chat(message, index)
        ]
        return (*begin, *rest)

    @property
    def choice(self) -> ToolChoice:
        """Whether and how tools are called."""
        return from_anthropic(self.tool_choice)

    @property
    def chat_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools in OpenAI's form; none where none may be called."""
        if self.choice.none:
            return ()
        return tuple(_tool(tool, index) for index, tool in enumerate(self.tools or ()))


class MessagesRequest(Prompt, frozen=True, kw_only=True):
    """Body of ``/v1/messages``."""

    max_tokens: MaxTokens
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 24)] | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None

    @property
    def json_schema(self) -> str:
        """The schema that `output_config.format` asks for; empty where it asks for text."""
        wanted = (self.output_config or {}).get("format")
        if wanted is not None and (
            not isinstance(wanted, dict) or wanted.get("type") != "json_schema"
        ):
            raise unsupported("output_config", "a format of type 'json_schema'", wanted)
        return schema_of(wanted, "output_config")


P = TypeVar("P", bound=Prompt)

_prompt = msgspec.json.Decoder(Prompt)
_messages = msgspec.json.Decoder(MessagesRequest)


def parse_messages(body: bytes) -> MessagesRequest:
    """A request to ``/v1/messages``.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    return _supported(decode(_messages, body))


def parse_prompt(body: bytes) -> Prompt:
    """A request to ``/v1/messages/count_tokens``.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    return _supported(decode(_prompt, body))


def _supported(request: P) -> P:
    for name in ("messages", "system", "tools", "output_config"):
        # What could not be redacted could not be logged, and must not be answered.
        if is_too_deep(getattr(request, name)):
            raise ApiError(400, f"nested deeper than {MAX_NESTING} levels", param=name)
    if (request.thinking or {}).get("type", "disabled") not in ("disabled", "adaptive"):
        raise unsupported("thinking", "type 'disabled' or 'adaptive'", request.thinking)
    if (request.output_config or {}).get("effort") is not None:
        raise unsupported("output_config", "no effort", request.output_config)
    if request.messages[-1].get("role") == "assistant":
        raise ApiError(
            400, "the last message must not be the assistant's: an answer begins anew here",
            param="messages",
        )  # fmt: skip
    return request


def _chat(message: Message, index: int) -> list[Message]:
    """The messages of a chat that one of Anthropic's is: results of tools are their own there."""
    role, content = message.get("role"), message.get("content")
    where = f"messages[{index}]"
    if role not in ("user", "assistant", "system"):
        raise ApiError(400, f"{where}: role 'user' or 'assistant', got {role!r}", param="messages")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = content if isinstance(content, list) else [content]
    texts: list[Any] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    for block in blocks:
        block = block if isinstance(block, dict) else {}
        kind = block.get("type")
        if kind == "text":
            texts.append(block)
        elif kind == "tool_use" and role == "assistant":
            calls.append(_call(block))
        elif kind == "tool_result" and role == "user":
            said = _text(block.get("content") or "", where)
            if block.get("is_error") and not said.startswith(_FAILED):
                # A chat has no field for it, and the model has to see it.
                said = _FAILED + said
            identity = block.get("tool_use_id")
            results.append({"role": "tool", "tool_call_id": identity, "content": said})
        else:
            known = "'text', 'tool_use' (assistant) or 'tool_result' (user)"
            raise unsupported("messages", f"a block of type {known}", kind, at=where)
    if calls:
        text = _text(texts, where) or None
        return [{"role": role, "content": text, "tool_calls": calls}]
    return results + ([{"role": role, "content": _text(texts, where)}] if texts else [])


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(block, dict) and isinstance(block.get("text"), str) for block in content
    ):
        return "\n\n".join(block["text"] for block in content)
    raise ApiError(400, f"{where}: content must be text or text blocks", param="messages")


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom") or not isinstance(tool.get("name"), str):
        raise unsupported(
            "tools", "a tool of the client's own, with a name", tool, at=f"tools[{index}]"
        )
    function = {
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }
    present = {name: value for name, value in function.items() if value is not None}
    return {"type": "function", "function": present}
