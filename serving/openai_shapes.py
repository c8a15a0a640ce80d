"""Answers in OpenAI's shape: whole, and as chunks of a stream. No I/O."""

from typing import Any

from appliance.engine.template import Template
from serving.answers import Answer
from serving.exchange import Exchange


class ChatShape:
    """``chat.completion`` and ``chat.completion.chunk``."""

    prefix = "chatcmpl"

    def __init__(self, model: str, fingerprint: str, template: Template, logprobs: bool) -> None:
        self._model = model
        self._fingerprint = fingerprint
        self._template = template
        self._logprobs = logprobs

    def whole(self, exchange: Exchange) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [
            {
                "index": index,
                "message": {"refusal": None, **answer.message},
                "logprobs": self._logprobs_of(answer, 0),
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(exchange.answers)
        ]
        return {
            **self._head(exchange, "chat.completion"),
            "choices": choices,
            "usage": usage(exchange),
        }

    def piece(self, exchange: Exchange, index: int, text: str, first: int) -> dict[str, Any] | None:
        """A chunk with new text of a choice; None where nothing is to be said yet."""
        answer = exchange.answers[index]
        logprobs = self._logprobs_of(answer, first)
        if not text and not (logprobs and logprobs["content"]) and first:
            return None
        delta: dict[str, Any] = {"content": text}
        if not first:
            delta["role"] = "assistant"
        return self._chunk(exchange, index, delta, logprobs, None)

    def end(self, exchange: Exchange, index: int) -> dict[str, Any]:
        """The last chunk of a choice: its tool calls and why it ended."""
        answer = exchange.answers[index]
        calls = [{"index": at, **call} for at, call in enumerate(answer.tool_calls)]
        delta = {"tool_calls": calls} if calls else {}
        return self._chunk(exchange, index, delta, None, answer.finish_reason)

    def usage_chunk(self, exchange: Exchange) -> dict[str, Any]:
        """The chunk that ``stream_options.include_usage`` asks for."""
        head = self._head(exchange, "chat.completion.chunk")
        return {**head, "choices": [], "usage": usage(exchange)}

    def _chunk(
        self,
        exchange: Exchange,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {**self._head(exchange, "chat.completion.chunk"), "choices": [choice]}

    def _head(self, exchange: Exchange, kind: str) -> dict[str, Any]:
        return {
            "id": exchange.request_id,
            "object": kind,
            "created": int(exchange.started_at),
            "model": self._model,
            "system_fingerprint": self._fingerprint,
        }

    def _logprobs_of(self, answer: Answer, first: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = []
        for at in range(first, len(answer.ids)):
            alternatives = answer.top_logprobs[at] if at < len(answer.top_logprobs) else ()
            content.append(
                {
                    **_token(self._template, answer.ids[at], answer.logprobs[at]),
                    "top_logprobs": [_token(self._template, *pair) for pair in alternatives],
                }
            )
        return {"content": content, "refusal": None}


class CompletionShape:
    """``text_completion``; chunks have the same shape as the whole."""

    prefix = "cmpl"

    def __init__(self, model: str, fingerprint: str, template: Template, logprobs: bool) -> None:
        self._model = model
        self._fingerprint = fingerprint
        self._template = template
        self._logprobs = logprobs

    def whole(self, exchange: Exchange) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [
            self._choice(index, answer.text, self._logprobs_of(answer, 0), answer.finish_reason)
            for index, answer in enumerate(exchange.answers)
        ]
        return {**self._head(exchange), "choices": choices, "usage": usage(exchange)}

    def piece(self, exchange: Exchange, index: int, text: str, first: int) -> dict[str, Any] | None:
        """A chunk with new text of a choice; None where nothing is to be said yet."""
        logprobs = self._logprobs_of(exchange.answers[index], first)
        if not text and not (logprobs and logprobs["tokens"]):
            return None
        return {**self._head(exchange), "choices": [self._choice(index, text, logprobs, None)]}

    def end(self, exchange: Exchange, index: int) -> dict[str, Any]:
        """The last chunk of a choice: why it ended."""
        reason = exchange.answers[index].finish_reason
        return {**self._head(exchange), "choices": [self._choice(index, "", None, reason)]}

    def usage_chunk(self, exchange: Exchange) -> dict[str, Any]:
        """The chunk that ``stream_options.include_usage`` asks for."""
        return {**self._head(exchange), "choices": [], "usage": usage(exchange)}

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _head(self, exchange: Exchange) -> dict[str, Any]:
        return {
            "id": exchange.request_id,
            "object": "text_completion",
            "created": int(exchange.started_at),
            "model": self._model,
            "system_fingerprint": self._fingerprint,
        }

    def _logprobs_of(self, answer: Answer, first: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tokens = [spell(self._template, token) for token in answer.ids]
        offsets = [sum(map(len, tokens[:at])) for at in range(first, len(tokens))]
        top = [
            {spell(self._template, token): logprob for token, logprob in alternatives}
            for alternatives in answer.top_logprobs[first:]
        ]
        return {
            "tokens": tokens[first:],
            "token_logprobs": answer.logprobs[first:],
            "top_logprobs": top or None,
            "text_offset": offsets,
        }


def usage(exchange: Exchange) -> dict[str, Any]:
    """Tokens in and out, over all choices."""
    asked, answered = len(exchange.generate.prompt_ids), exchange.completion_tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "prompt_tokens_details": {"cached_tokens": exchange.cached_tokens},
    }


def spell(template: Template, token: int) -> str:
    """A token's own text, special tokens by their name."""
    return template.decode([token], skip_special_tokens=False)


def _token(template: Template, token: int, logprob: float) -> dict[str, Any]:
    text = spell(template, token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


Shape = ChatShape | CompletionShape
