"""Answers to chat and completions in OpenAI's shape: whole, and as chunks of a stream. No I/O."""

from itertools import accumulate
from typing import Any

import msgspec

from appliance.engine.template import Template
from serving.answers import Answer
from serving.ask import event
from serving.exchange import Exchange
from serving.openai_errors import ApiError

_DONE = b"data: [DONE]\n\n"


class _ChunkedShape:
    """What both shapes share: a head, choices, usage; a stream of chunks that ends in [DONE]."""

    prefix: str
    _kind: str
    _chunk_kind: str

    def __init__(
        self, model: str, template: Template, *, logprobs: bool, token_ids: bool, usage: bool
    ) -> None:
        self._model = model
        self._template = template
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._usage = usage

    def begin(self, _: Exchange) -> bytes:
        """Nothing: the first chunk begins."""
        return b""

    def failure(self, _: Exchange, error: ApiError) -> bytes:
        """The error as an event, and no [DONE]: the stream did not come to its end."""
        return event(error.body)

    def _last(self, exchange: Exchange) -> bytes:
        if not self._usage:
            return _DONE
        head = self._head(exchange, self._chunk_kind)
        return event({**head, "choices": [], "usage": usage(exchange)}) + _DONE

    def _head(self, exchange: Exchange, kind: str) -> dict[str, Any]:
        return {
            "id": exchange.request_id,
            "object": kind,
            "created": int(exchange.started_at),
            "model": self._model,
            "system_fingerprint": exchange.fingerprint,
        }


class ChatShape(_ChunkedShape):
    """``chat.completion`` and ``chat.completion.chunk``."""

    prefix = "chatcmpl"
    _kind = "chat.completion"
    _chunk_kind = "chat.completion.chunk"

    def whole(self, exchange: Exchange) -> bytes:
        """The body of an answer that is not streamed."""
        choices = [
            {
                "index": index,
                "message": {"refusal": None, **answer.message},
                "logprobs": self._logprobs_of(answer, 0),
                "finish_reason": answer.finish_reason,
                **({"token_ids": answer.ids} if self._token_ids else {}),
            }
            for index, answer in enumerate(exchange.answers)
        ]
        head = self._head(exchange, self._kind)
        body = {**head, **self._prompt(exchange), "choices": choices, "usage": usage(exchange)}
        return msgspec.json.encode(body)

    def piece(self, exchange: Exchange, index: int, text: str, first: int) -> bytes:
        """A chunk with new text of a choice; nothing where nothing is to be said yet."""
        answer = exchange.answers[index]
        tokens = len(answer.ids) > first and (self._logprobs or self._token_ids)
        if not text and not tokens and first:
            return b""
        choice: dict[str, Any] = {
            "index": index,
            "delta": {"content": text} if first else {"role": "assistant", "content": text},
            "logprobs": self._logprobs_of(answer, first),
            "finish_reason": None,
        }
        if self._token_ids:
            choice["token_ids"] = answer.ids[first:]
        prompt = {} if first or index else self._prompt(exchange)
        head = self._head(exchange, self._chunk_kind)
        return event({**head, **prompt, "choices": [choice]})

    def end(self, exchange: Exchange) -> bytes:
        """The last chunk of each choice, with its tool calls and why it ended; then [DONE]."""
        events = b""
        for index, answer in enumerate(exchange.answers):
            calls = [{"index": at, **call} for at, call in enumerate(answer.tool_calls)]
            choice = {
                "index": index,
                "delta": {"tool_calls": calls} if calls else {},
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
            events += event({**self._head(exchange, self._chunk_kind), "choices": [choice]})
        return events + self._last(exchange)

    def _prompt(self, exchange: Exchange) -> dict[str, Any]:
        return {"prompt_token_ids": exchange.generate.prompt_ids} if self._token_ids else {}

    def _logprobs_of(self, answer: Answer, first: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": logprobs_of(self._template, answer, first), "refusal": None}


class CompletionShape(_ChunkedShape):
    """``text_completion``; chunks have the same shape as the whole."""

    prefix = "cmpl"
    _kind = _chunk_kind = "text_completion"

    def __init__(
        self, model: str, template: Template, *, logprobs: bool, token_ids: bool, usage: bool
    ) -> None:
        super().__init__(model, template, logprobs=logprobs, token_ids=token_ids, usage=usage)
        self._offsets: dict[int, int] = {}
        """Choice → where its next token begins in its text."""

    def whole(self, exchange: Exchange) -> bytes:
        """The body of an answer that is not streamed."""
        choices = [
            self._choice(exchange, index, answer.text, 0, answer.finish_reason)
            for index, answer in enumerate(exchange.answers)
        ]
        head = self._head(exchange, self._kind)
        return msgspec.json.encode({**head, "choices": choices, "usage": usage(exchange)})

    def piece(self, exchange: Exchange, index: int, text: str, first: int) -> bytes:
        """A chunk with new text of a choice; nothing where nothing is to be said yet."""
        tokens = len(exchange.answers[index].ids) > first and (self._logprobs or self._token_ids)
        if not text and not tokens:
            return b""
        choice = self._choice(exchange, index, text, first, None)
        return event({**self._head(exchange, self._chunk_kind), "choices": [choice]})

    def end(self, exchange: Exchange) -> bytes:
        """The last chunk of each choice, which says why it ended; then [DONE]."""
        events = b""
        for index, answer in enumerate(exchange.answers):
            end = {"index": index, "text": "", "logprobs": None}
            choice = {**end, "finish_reason": answer.finish_reason}
            events += event({**self._head(exchange, self._chunk_kind), "choices": [choice]})
        return events + self._last(exchange)

    def _choice(
        self, exchange: Exchange, index: int, text: str, first: int, finish_reason: str | None
    ) -> dict[str, Any]:
        answer = exchange.answers[index]
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._logprobs_of(answer, index, first),
            "finish_reason": finish_reason,
        }
        if self._token_ids:
            choice["prompt_token_ids"] = None if first else exchange.generate.prompt_ids
            choice["token_ids"] = answer.ids[first:]
        return choice

    def _logprobs_of(self, answer: Answer, index: int, first: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tokens = [spell(self._template, token) for token in answer.ids[first:]]
        begin = self._offsets[index] if first else 0
        *offsets, self._offsets[index] = accumulate(map(len, tokens), initial=begin)
        top = [
            {spell(self._template, token): logprob for token, logprob in alternatives}
            for alternatives in answer.top_logprobs[first:]
        ]
        return {
            "tokens": tokens,
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


def logprobs_of(template: Template, answer: Answer, first: int) -> list[dict[str, Any]]:
    """What is said of each token of an answer from `first` on."""
    found = []
    for at in range(first, len(answer.ids)):
        alternatives = answer.top_logprobs[at] if at < len(answer.top_logprobs) else ()
        found.append(
            {
                **_token(template, answer.ids[at], answer.logprobs[at]),
                "top_logprobs": [_token(template, *pair) for pair in alternatives],
            }
        )
    return found


def spell(template: Template, token: int) -> str:
    """A token's own text, special tokens by their name."""
    return template.decode([token], skip_special_tokens=False)


def _token(template: Template, token: int, logprob: float) -> dict[str, Any]:
    text = spell(template, token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
