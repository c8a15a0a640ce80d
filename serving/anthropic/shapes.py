"""Answers in Anthropic's shape: a message whole, and as the events of a stream. No I/O."""

from typing import Any

import msgspec

from serving.anthropic.errors import error_body
from serving.ask import event
from serving.exchange import Exchange
from serving.openai_errors import ApiError

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageShape:
    """A ``message`` object and its stream: the text is block 0, then a block for each call."""

    prefix = "msg"

    def __init__(self, model: str) -> None:
        self._model = model
        self._open = False
        """Whether the text's block was begun."""

    def whole(self, exchange: Exchange) -> bytes:
        """The body of an answer that is not streamed."""
        answer = exchange.answers[0]
        text = answer.message.get("content")
        content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        content += [
            _call_block(call, msgspec.json.decode(call["function"]["arguments"]))
            for call in answer.tool_calls
        ]
        message = {**self._message(exchange, content), **_stop(exchange)}
        return msgspec.json.encode({**message, "usage": _usage(exchange)})

    def begin(self, exchange: Exchange) -> bytes:
        """The message, still empty."""
        usage = {"input_tokens": len(exchange.generate.prompt_ids), "output_tokens": 0}
        message = {**self._message(exchange, []), "usage": usage}
        return _event("message_start", message=message)

    def piece(self, exchange: Exchange, index: int, text: str, first: int) -> bytes:
        """New text, in a block that is begun with its first text."""
        del exchange, index, first
        if not text:
            return b""
        events = b""
        if not self._open:
            self._open = True
            block = {"type": "text", "text": ""}
            events = _event("content_block_start", index=0, content_block=block)
        delta = {"type": "text_delta", "text": text}
        return events + _event("content_block_delta", index=0, delta=delta)

    def end(self, exchange: Exchange) -> bytes:
        """The text's end, the calls, why it ended and what it cost."""
        events = _event("content_block_stop", index=0) if self._open else b""
        for at, call in enumerate(exchange.answers[0].tool_calls, start=int(self._open)):
            delta = {"type": "input_json_delta", "partial_json": call["function"]["arguments"]}
            events += (
                _event("content_block_start", index=at, content_block=_call_block(call, {}))
                + _event("content_block_delta", index=at, delta=delta)
                + _event("content_block_stop", index=at)
            )
        return (
            events
            + _event("message_delta", delta=_stop(exchange), usage=_usage(exchange))
            + _event("message_stop")
        )

    def failure(self, exchange: Exchange, error: ApiError) -> bytes:
        """An ``error`` event."""
        del exchange
        return event(error_body(error), "error")

    def _message(self, exchange: Exchange, content: list[Any]) -> dict[str, Any]:
        return {
            "id": exchange.request_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }


def _call_block(call: dict[str, Any], arguments: Any) -> dict[str, Any]:
    name = call["function"]["name"]
    return {"type": "tool_use", "id": call["id"], "name": name, "input": arguments}


def _stop(exchange: Exchange) -> dict[str, Any]:
    answer = exchange.answers[0]
    reason = "stop_sequence" if answer.stop else _STOP_REASONS[answer.finish_reason]
    return {"stop_reason": reason, "stop_sequence": answer.stop or None}


def _usage(exchange: Exchange) -> dict[str, int]:
    """Anthropic counts the tokens that came from a cache apart from the rest of the input."""
    return {
        "input_tokens": len(exchange.generate.prompt_ids) - exchange.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": exchange.cached_tokens,
        "output_tokens": exchange.completion_tokens,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)
