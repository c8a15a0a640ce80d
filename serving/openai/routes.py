"""OpenAI's routes: chat, completions and responses."""

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from serving.ask import Ask
from serving.gateway import Gateway
from serving.openai.responses_shapes import ResponseShape
from serving.openai.responses_wire import parse_response
from serving.openai.shapes import ChatShape, CompletionShape
from serving.openai.wire import parse_chat, parse_completion
from serving.openai_errors import ApiError
from serving.reading import beside, encode, read_prompt, read_session
from serving.structured import require_possible
from serving.under_way import Place


async def chat(gateway: Gateway, place: Place, request: Request) -> Response:
    """``POST /v1/chat/completions``."""
    session = read_session(request)
    wanted, size = await read_prompt(request, parse_chat, gateway.context_length)
    gateway.ingest.require_room()
    await require_possible(wanted.json_schema, "response_format", key_id=place.key.key_id)
    choice = wanted.choice
    tools = () if choice.none else tuple(wanted.tools or ())
    ask = Ask(
        **wanted.sampling,
        prompt_ids=await encode(gateway.template, wanted.messages, tools, size=size),
        messages=tuple(wanted.messages),
        tools=tools,
        tool_choice=choice,
        max_tokens=wanted.max_completion_tokens or wanted.max_tokens,
        json_schema=wanted.json_schema,
        top_logprobs=wanted.top_logprobs or 0,
    )
    shape = ChatShape(
        wanted.model,
        gateway.template,
        logprobs=bool(wanted.logprobs),
        token_ids=bool(wanted.return_token_ids),
        usage=wanted.wants_usage,
    )
    return await gateway.reply(place, session, ask, shape)


async def completions(gateway: Gateway, place: Place, request: Request) -> Response:
    """``POST /v1/completions``."""
    session = read_session(request)
    wanted, size = await read_prompt(
        request, parse_completion, gateway.context_length, param="prompt"
    )
    gateway.ingest.require_room()
    text, prompt_ids = await beside(size, lambda: _prompt(gateway, wanted.prompt))
    ask = Ask(
        **wanted.sampling,
        prompt_ids=prompt_ids,
        messages=({"role": "user", "content": text},),
        prompt_param="prompt",
        chat=False,
        max_tokens=wanted.max_tokens or 16,
        top_logprobs=wanted.logprobs or 0,
    )
    shape = CompletionShape(
        wanted.model,
        gateway.template,
        logprobs=wanted.logprobs is not None,
        token_ids=bool(wanted.return_token_ids),
        usage=wanted.wants_usage,
    )
    return await gateway.reply(place, session, ask, shape)


async def responses(gateway: Gateway, place: Place, request: Request) -> Response:
    """``POST /v1/responses``."""
    session = read_session(request)
    wanted, size = await read_prompt(request, parse_response, gateway.context_length, param="input")
    gateway.ingest.require_room()
    await require_possible(wanted.json_schema, "text", key_id=place.key.key_id)
    messages, tools = wanted.messages, wanted.chat_tools
    ask = Ask(
        model=wanted.model,
        prompt_ids=await encode(gateway.template, messages, tools, size=size, param="input"),
        messages=messages,
        prompt_param="input",
        tools=tools,
        tool_choice=wanted.choice,
        max_tokens=wanted.max_output_tokens,
        temperature=1.0 if wanted.temperature is None else wanted.temperature,
        top_p=wanted.top_p or 1.0,
        json_schema=wanted.json_schema,
        top_logprobs=wanted.top_logprobs or 0,
        stream=bool(wanted.stream),
        user=wanted.user if isinstance(wanted.user, str) else None,
    )
    return await gateway.reply(place, session, ask, ResponseShape(wanted, gateway.template))


def models(names: list[str]) -> dict[str, Any]:
    """Body of ``GET /v1/models``."""
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> dict[str, Any]:
    """Body of ``GET /v1/models/NAME``."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "espalier"}


def _prompt(gateway: Gateway, prompt: str | list[Any]) -> tuple[str, list[int]]:
    """Text and ids of a completion's prompt, which may be given as either."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        ids = gateway.template.encode_text(prompt)
    else:
        ids = prompt
        vocabulary = gateway.base.record.vocab_size
        if any(type(token) is not int or not 0 <= token < vocabulary for token in ids):
            raise ApiError(
                400,
                f"prompt must be one text, or token ids from 0 to {vocabulary - 1}",
                param="prompt",
            )
    if not ids:
        raise ApiError(400, "the prompt is empty", param="prompt")
    return prompt if isinstance(prompt, str) else gateway.template.decode(ids), ids
