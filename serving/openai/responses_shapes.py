"""Answers to ``/v1/responses``: whole, and as the events of a stream. No I/O.

The order of events is OpenAI's: created, in_progress; for each item added, its parts, done; then
completed, incomplete or failed. Each has its number.
"""

from typing import Any

import msgspec

from appliance.engine.template import Template
from serving.answers import Answer
from serving.ask import event
from serving.exchange import Exchange
from serving.openai.responses_wire import ResponseRequest
from serving.openai.shapes import logprobs_of
from serving.openai_errors import ApiError

_TEXT = {"format": {"type": "text"}}


class ResponseShape:
    """A ``response`` object and its stream. One message, then the calls."""

    prefix = "resp"

    def __init__(self, request: ResponseRequest, template: Template) -> None:
        self._request = request
        self._template = template
        self._number = -1
        self._open = False
        """Whether the message's item was begun."""
        self._told = 0
        """Tokens whose logprobs are out."""

    def whole(self, exchange: Exchange) -> bytes:
        """The body of an answer that is not streamed."""
        return msgspec.json.encode(self._finished(exchange))

    def begin(self, exchange: Exchange) -> bytes:
        """The response, created and in progress."""
        response = self._response(exchange, "in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def piece(self, exchange: Exchange, index: int, text: str, first: int) -> bytes:
        """New text of the message, which is begun with its first text."""
        del index, first
        if not text:
            return b""
        answer = exchange.answers[0]
        logprobs = self._logprobs(answer, self._told)
        self._told = len(answer.ids)
        return self._begin_message(exchange) + self._part_event(
            exchange, "response.output_text.delta", delta=text, logprobs=logprobs
        )

    def end(self, exchange: Exchange) -> bytes:
        """The message's end, the calls, and the response as it has become."""
        response = self._finished(exchange)
        events = b""
        for at, item in enumerate(response["output"]):
            if item["type"] == "message":
                events += self._begin_message(exchange) + self._end_message(exchange, item)
            else:
                events += self._call(item, at)
        return events + self._event(f"response.{response['status']}", response=response)

    def failure(self, exchange: Exchange, error: ApiError) -> bytes:
        """``response.failed``, with what was said so far."""
        output = [self._message(exchange, "incomplete")] if self._open else []
        response = self._response(exchange, "failed", output)
        response["error"] = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=response)

    def _finished(self, exchange: Exchange) -> dict[str, Any]:
        answer = exchange.answers[0]
        status = "incomplete" if answer.finish_reason == "length" else "completed"
        output = [
            {
                "id": f"fc_{call['id'].removeprefix('call_')}",
                "type": "function_call",
                "status": "completed",
                "call_id": call["id"],
                **call["function"],
            }
            for call in answer.tool_calls
        ]
        if answer.message.get("content") or not output:
            output = [self._message(exchange, status), *output]
        response = self._response(exchange, status, output)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        asked, answered = len(exchange.generate.prompt_ids), exchange.completion_tokens
        response["usage"] = {
            "input_tokens": asked,
            "input_tokens_details": {
                "cached_tokens": exchange.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + answered,
        }
        return response

    def _response(self, exchange: Exchange, status: str, output: list[Any]) -> dict[str, Any]:
        asked, sampling = self._request, exchange.generate
        return {
            "id": exchange.request_id,
            "object": "response",
            "created_at": int(exchange.started_at),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": sampling.temperature,
            "text": asked.text or _TEXT,
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [],
            "top_logprobs": sampling.top_logprobs,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": None,
        }

    def _message(self, exchange: Exchange, status: str) -> dict[str, Any]:
        content = exchange.answers[0].message.get("content") or ""
        return {
            "id": _message_id(exchange),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [self._part(content, self._logprobs(exchange.answers[0], 0))],
        }

    def _part(self, text: str, logprobs: list[Any]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _begin_message(self, exchange: Exchange) -> bytes:
        if self._open:
            return b""
        self._open = True
        item = {
            "id": _message_id(exchange),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        return self._event(
            "response.output_item.added", output_index=0, item=item
        ) + self._part_event(exchange, "response.content_part.added", part=self._part("", []))

    def _end_message(self, exchange: Exchange, item: dict[str, Any]) -> bytes:
        part = item["content"][0]
        said = {"text": part["text"], "logprobs": part["logprobs"]}
        return (
            self._part_event(exchange, "response.output_text.done", **said)
            + self._part_event(exchange, "response.content_part.done", part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _call(self, item: dict[str, Any], at: int) -> bytes:
        begun = {**item, "status": "in_progress", "arguments": ""}
        of_item = {"item_id": item["id"], "output_index": at}
        arguments = item["arguments"]
        return (
            self._event("response.output_item.added", output_index=at, item=begun)
            + self._event("response.function_call_arguments.delta", **of_item, delta=arguments)
            + self._event(
                "response.function_call_arguments.done",
                **of_item,
                name=item["name"],
                arguments=arguments,
            )
            + self._event("response.output_item.done", output_index=at, item=item)
        )

    def _part_event(self, exchange: Exchange, kind: str, **fields: Any) -> bytes:
        place = {"item_id": _message_id(exchange), "output_index": 0, "content_index": 0}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _logprobs(self, answer: Answer, first: int) -> list[dict[str, Any]]:
        if not self._request.wants_logprobs:
            return []
        return logprobs_of(self._template, answer, first)


def _message_id(exchange: Exchange) -> str:
    return exchange.request_id.replace("resp", "msg", 1)
