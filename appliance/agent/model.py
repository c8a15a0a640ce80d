"""The model behind a gateway, spoken to by the real `openai` client, as any agent would."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import openai

from appliance.agent.loop import Answer
from appliance.core.errors import UnavailableError
from appliance.core.records import Json

_SESSION_HEADER = "x-espalier-session"
_ADAPTER_HEADER = "x-espalier-adapter"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as its client saw it. Times are UTC seconds since the epoch."""

    turn_id: str
    adapter: str
    """Digest of the adapter that answered, or ``base``, as the answer's header says it."""
    streamed: bool
    started_at: float
    ended_at: float
    failed: str = ""
    """Empty, or why there was no answer."""


class GatewayModel:
    """Answers within one session. Keeps a record of every request, the failed ones too.

    Logprobs are not asked for: the gateway's tap has them.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        *,
        model: str,
        session: str,
        max_tokens: int,
        temperature: float,
        seed_of: Callable[[int], int | None],
        streams: Callable[[int], bool],
    ) -> None:
        self.requests: list[Request] = []
        self._client = client
        self._fixed: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "extra_headers": {_SESSION_HEADER: session},
        }
        self._seed_of = seed_of
        self._streams = streams

    async def ask(self, messages: Sequence[Json], tools: Sequence[Json]) -> Answer:
        """The next answer; the n-th of a session has the n-th seed.

        Raises:
            UnavailableError: the request failed; it is on record.
        """
        position = len(self.requests)
        call = {**self._fixed, "messages": list(messages)}
        if tools:
            call["tools"] = list(tools)
        if (seed := self._seed_of(position)) is not None:
            call["seed"] = seed
        streamed = self._streams(position)
        started_at = time.time()
        turn_id, adapter, failed = "", "", ""
        message: Json = {}
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                **call, stream=streamed
            )
            adapter = raw.headers.get(_ADAPTER_HEADER, "")
            if streamed:
                turn_id, message = await _collect(raw.parse())
            else:
                body: Any = raw.parse()
                turn_id, message = body.id, _message(body.choices[0].message.to_dict())
        except (openai.OpenAIError, IndexError) as error:
            failed = f"{type(error).__name__}: {error}"[:500]
            raise UnavailableError(f"no answer from the gateway: {failed}") from error
        finally:
            request = Request(
                turn_id=turn_id,
                adapter=adapter,
                streamed=streamed,
                started_at=started_at,
                ended_at=time.time(),
                failed=failed,
            )
            self.requests.append(request)
        return Answer(turn_id=turn_id, message=message)


async def _collect(stream: Any) -> tuple[str, Json]:
    """The whole answer of a stream."""
    turn_id, content = "", ""
    calls: dict[int, dict[str, str]] = {}
    finished = False
    async for chunk in stream:
        turn_id = chunk.id or turn_id
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finished = finished or choice.finish_reason is not None
            for part in choice.delta.tool_calls or ():
                call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += part.id or ""
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    if not finished:
        raise openai.OpenAIError("the stream ended before the answer did")
    whole = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for _, call in sorted(calls.items())
    ]
    return turn_id, _message({"content": content, "tool_calls": whole})


def _message(answer: dict[str, Any]) -> Json:
    message: Json = {"role": "assistant", "content": answer.get("content")}
    if calls := answer.get("tool_calls"):
        message["tool_calls"] = calls
    return message
