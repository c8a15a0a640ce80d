"""Anthropic's routes: messages, and the count of their tokens."""

from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import Response

from serving.anthropic.shapes import MessageShape
from serving.anthropic.wire import Prompt, parse_messages, parse_prompt
from serving.ask import Ask
from serving.gateway import Gateway
from serving.reading import encode, read_prompt, read_session
from serving.structured import require_possible
from serving.under_way import Place


async def messages(gateway: Gateway, place: Place, request: Request) -> Response:
    """``POST /v1/messages``."""
    session = read_session(request)
    wanted, size = await read_prompt(request, parse_messages, gateway.context_length)
    gateway.ingest.require_room()
    await require_possible(wanted.json_schema, "output_config", key_id=place.key.key_id)
    ask = Ask(
        model=wanted.model,
        prompt_ids=await _encode(gateway, wanted, size),
        messages=wanted.chat_messages,
        tools=wanted.chat_tools,
        tool_choice=wanted.choice,
        max_tokens=wanted.max_tokens,
        temperature=1.0 if wanted.temperature is None else wanted.temperature,
        top_p=wanted.top_p or 1.0,
        top_k=wanted.top_k or 0,
        stops=tuple(wanted.stop_sequences or ()),
        json_schema=wanted.json_schema,
        stream=bool(wanted.stream),
    )
    return await gateway.reply(place, session, ask, MessageShape(wanted.model))


async def count_tokens(gateway: Gateway, place: Place, request: Request) -> Response:
    """``POST /v1/messages/count_tokens``: what the prompt would cost, by the base's template."""
    wanted, size = await read_prompt(request, parse_prompt, gateway.context_length)
    await gateway.address(wanted.model, place.key)
    count = len(await _encode(gateway, wanted, size))
    return Response(msgspec.json.encode({"input_tokens": count}), media_type="application/json")


def models(names: list[str]) -> dict[str, Any]:
    """Body of ``GET /v1/models``."""
    data = [model(name) for name in names]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def model(name: str) -> dict[str, Any]:
    """Body of ``GET /v1/models/NAME``."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }


async def _encode(gateway: Gateway, wanted: Prompt, size: int) -> list[int]:
    messages, tools = wanted.chat_messages, wanted.chat_tools
    return await encode(gateway.template, messages, tools, size=size)
