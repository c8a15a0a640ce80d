"""What a base's ids spell: stop texts, and answers that keep to a JSON schema or a grammar.

Nothing is decoded for a request that asks for none of them. Compiling a schema may take a second,
so it is not done on the engine's thread; steps then cost microseconds (llguidance).
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from appliance.core.errors import EspalierError, UsageError
from appliance.engine.template import Template
from appliance.engine.wire import Generate

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_COMPILED_KEPT = 128
# Small models left free write white space for ever; without any, as vLLM is told to write it too.
_COMPACT: "JsonCompileOptions" = {"whitespace_flexible": False}


class Vocabulary:
    """A base's tokenizer, safe to use from any thread."""

    def __init__(self, tokenizer: str, *, size: int, stop_ids: Sequence[int]) -> None:
        """tokenizer: tokenizer.json; size: ids that the model has; stop_ids: that end an answer."""
        self._json, self._size, self._stop_ids = tokenizer, size, list(stop_ids)
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._trie: LLTokenizer | None = None
        self._matchers: OrderedDict[str, LLMatcher] = OrderedDict()
        """By schema or grammar: no text is both."""
        self._lock = threading.Lock()

    @classmethod
    def load(cls, base: Path, size: int) -> "Vocabulary":
        """The vocabulary of a registered base."""
        stop_ids = Template.load(base).stop_ids
        return cls((base / "tokenizer.json").read_text(), size=size, stop_ids=stop_ids)

    def rules(self, request: Generate) -> "Rules | None":
        """What a request asks of its answer's text; None: nothing. May take a second.

        Raises:
            UsageError: a schema or a grammar that cannot be compiled, or both of them at once.
        """
        if not request.has_rules:
            return None
        start = self._compiled(request) if request.json_schema or request.grammar else None
        return Rules(self._tokenizer, request.stops, start, frozenset(self._stop_ids), self._size)

    def _compiled(self, request: Generate) -> LLMatcher:
        if request.json_schema and request.grammar:
            raise UsageError("an answer keeps to a JSON schema or to a grammar, not to both")
        text = request.json_schema or request.grammar
        with self._lock:
            if text not in self._matchers:
                read = LLMatcher.grammar_from_lark if request.grammar else _from_schema
                self._matchers[text] = self._compile(read(text))
                if len(self._matchers) > _COMPILED_KEPT:
                    self._matchers.popitem(last=False)
            self._matchers.move_to_end(text)
            return self._matchers[text]

    def _compile(self, grammar: str) -> LLMatcher:
        if self._trie is None:
            self._trie = LLTokenizer(self._json, n_vocab=self._size, eos_token=self._stop_ids)
        matcher = LLMatcher(self._trie, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return matcher


class Rules:
    """What one request asks of its answer's text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        start: LLMatcher | None,
        end_ids: frozenset[int],
        size: int,
    ) -> None:
        self._tokenizer, self._stops, self._start = tokenizer, stops, start
        self._end_ids, self._size = end_ids, size

    def begin(self) -> "Watch":
        """Watch one choice from its first token on."""
        stops = StopTexts(self._tokenizer, self._stops) if self._stops else None
        schema = Schema(self._start, self._end_ids, self._size) if self._start else None
        return Watch(stops, schema)


class Watch:
    """Follows one choice token by token."""

    def __init__(self, stops: "StopTexts | None", schema: "Schema | None") -> None:
        self._stops, self._schema = stops, schema

    @property
    def error(self) -> EspalierError | None:
        """Why it cannot go on."""
        return self._schema.error if self._schema else None

    def forbid(self, logits: Tensor) -> None:
        """Take from the next token's logits what the schema does not allow. logits: (vocab,)."""
        if self._schema is not None:
            self._schema.forbid(logits)

    def ends(self, token: int) -> bool:
        """Take the next token; whether it ends the answer."""
        ended = self._schema is not None and self._schema.take(token)
        return (self._stops is not None and self._stops.take(token)) or ended


class StopTexts:
    """Finds the token that completes one of some texts."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._longest = max(map(len, stops))
        self._tail = ""  # of the text that is settled: as much as a stop may begin in
        self._context: list[int] = []  # ids that are needed to decode what follows
        self._fresh: list[int] = []  # ids whose text is not settled: half a character, perhaps

    def take(self, token: int) -> bool:
        """Whether a stop text is complete with this token."""
        self._fresh.append(token)
        before = self._tokenizer.decode(self._context)
        after = self._tokenizer.decode(self._context + self._fresh)
        text = self._tail + after[len(before) :]
        if any(stop in text for stop in self._stops):
            return True
        if len(after) > len(before) and not after.endswith("\ufffd"):
            self._tail = text[max(0, len(text) - self._longest + 1) :]
            self._context, self._fresh = self._fresh, []
        return False


class Schema:
    """Which tokens keep to a schema, from what was drawn so far."""

    def __init__(self, start: LLMatcher, end_ids: frozenset[int], size: int) -> None:
        self._matcher = start.deep_copy()
        self._end_ids = end_ids
        self._bits: NDArray[np.int32] = np.zeros((size + 31) // 32, dtype=np.int32)
        self._size = size

    @property
    def error(self) -> EspalierError | None:
        """Why it cannot go on: a schema that is too much to follow."""
        if not self._matcher.is_error():
            return None
        return _refused(self._matcher.get_error())

    def forbid(self, logits: Tensor) -> None:
        """See Watch."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            return
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._size]
        forbidden = torch.from_numpy(allowed == 0).to(logits.device)
        logits.masked_fill_(forbidden, float("-inf"))

    def take(self, token: int) -> bool:
        """See Watch.ends."""
        return token in self._end_ids or not self._matcher.consume_token(token)


def _from_schema(schema: str) -> str:
    try:
        if not isinstance(json.loads(schema), dict):
            raise UsageError("a JSON schema must be an object")
        return LLMatcher.grammar_from_json_schema(schema, overrides=_COMPACT)
    except ValueError as error:
        raise _refused(str(error)) from error


def _refused(reason: str) -> UsageError:
    first = next(iter(reason.strip().splitlines()), "no reason given")
    return UsageError(
        f"the schema or grammar cannot be met: {first}",
        next_step="simplify it, or ask without",
    )
