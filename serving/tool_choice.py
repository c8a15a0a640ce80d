"""Whether an answer may, must not or has to call tools, and how often. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from appliance.engine.tool_calls import calls_grammar
from serving.openai_errors import ApiError, unsupported

_PARAM = "tool_choice"


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What every protocol's ``tool_choice`` comes down to."""

    none: bool = False
    """No tool may be called, so the model is shown none."""
    forced: bool = False
    """The answer is calls, and nothing else."""
    name: str = ""
    """Of the one tool that is called, once; empty leaves it to the model."""
    once: bool = False
    """At most one call."""

    @property
    def ends_at_call(self) -> bool:
        """Whether an answer is cut after a call: one that is forced ends by itself."""
        return self.once and not self.forced

    def grammar(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """What an answer is held to, for tools in chat's form; empty where nothing is forced.

        Raises:
            ApiError: 400; there is no such tool, or one that cannot be called.
        """
        if not self.forced:
            return ""
        schemas = dict(_schema_of(tool, at) for at, tool in enumerate(tools))
        if len(schemas) < len(tools):
            raise ApiError(400, "two tools have the same name", param="tools")
        if self.name:
            schemas = {name: schema for name, schema in schemas.items() if name == self.name}
        if not schemas:
            missing = f"no tool {self.name[:100]!r}" if self.name else "no tool at all"
            raise ApiError(400, f"a call is asked for, but there is {missing}", param=_PARAM)
        return calls_grammar(schemas, once=self.once or bool(self.name))


def from_openai(choice: Any, parallel: bool | None) -> ToolChoice:
    """``tool_choice`` and ``parallel_tool_calls`` of chat and responses.

    Raises:
        ApiError: 400, a choice that is not here.
    """
    once = parallel is False
    if choice in (None, "auto"):
        return ToolChoice(once=once)
    if choice == "none":
        return ToolChoice(none=True)
    if choice == "required":
        return ToolChoice(forced=True, once=once)
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        # Chat puts the name under ``function``; responses puts it beside ``type``.
        return _named(choice.get("function", choice))
    raise unsupported(_PARAM, "'auto', 'none', 'required' or a function", choice)


def from_anthropic(choice: Mapping[str, Any] | None) -> ToolChoice:
    """``tool_choice`` of messages.

    Raises:
        ApiError: 400, a choice that is not here.
    """
    choice = choice or {}
    kind, once = choice.get("type", "auto"), bool(choice.get("disable_parallel_tool_use"))
    if kind == "none":
        return ToolChoice(none=True)
    if kind in ("auto", "any"):
        return ToolChoice(forced=kind == "any", once=once)
    if kind == "tool":
        return _named(choice)
    raise unsupported(_PARAM, "type 'auto', 'any', 'tool' or 'none'", choice)


def _named(holder: Any) -> ToolChoice:
    name = holder.get("name") if isinstance(holder, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ApiError(400, f"expected the name of a tool, got {name!r:.60}", param=_PARAM)
    return ToolChoice(forced=True, name=name)


def _schema_of(tool: Mapping[str, Any], at: int) -> tuple[str, Mapping[str, Any]]:
    function = tool.get("function")
    function = function if isinstance(function, Mapping) else {}
    name, schema = function.get("name"), function.get("parameters")
    if schema is None:
        # As OpenAI has it: whoever names no parameters has none.
        schema = {"additionalProperties": False}
    if not isinstance(name, str) or not isinstance(schema, Mapping):
        expected = "expected a function with a name and a schema"
        raise ApiError(400, f"tools[{at}]: {expected}, got {dict(function)!r:.100}", param="tools")
    return name, schema
