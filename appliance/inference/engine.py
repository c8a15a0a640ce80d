"""The engine itself: each step admits, fills caches, decodes one token a row. No threads, no I/O.

Who has a row and which blocks of the cache is the schedule's; noise is keyed by position, so a
sequence that gave its row up goes on with the same tokens.
"""

import math
import secrets
from collections import deque

import numpy as np
import torch
from torch import Tensor

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError, IntegrityError, UsageError
from appliance.engine.residents import Residents
from appliance.engine.wire import Generate, Released
from appliance.inference import steady
from appliance.inference.attention import Fill
from appliance.inference.decoding import Decoder
from appliance.inference.kv_pages import make_pages
from appliance.inference.lora import AdapterWeights, LoraSlots
from appliance.inference.model import Model
from appliance.inference.sampling import sample
from appliance.inference.schedule import Schedule
from appliance.inference.scoring import ScoreJob
from appliance.inference.sequence import Finish, Sequence, Stream
from appliance.inference.vocabulary import Rules, Vocabulary

_FILL_TOKENS = 1024
"""Prompt tokens computed between two decoding steps, so that nobody's stream stands still."""


class Engine:
    """One base, its adapters, and the sequences under way."""

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int,
        slots: int,
        cache_tokens: int,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """vocabulary: without it, requests with stop texts or a schema are refused."""
        device, dtype, shape = model.device, model.dtype, model.shape
        self.model = model
        self.residents = Residents(slots)
        self.tokens_generated = 0
        self._vocabulary = vocabulary
        self._lora = LoraSlots(shape, slots=slots, device=device, dtype=dtype)
        self._pages = make_pages(
            shape, max_rows=max_batch, max_tokens=cache_tokens, device=device, dtype=dtype
        )
        self._schedule = Schedule(self._pages, max_rows=max_batch, longest=shape.context_length)
        self._decoder = Decoder(model, self._pages, self._lora)
        self._scores: deque[ScoreJob] = deque()

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._schedule.longest

    @property
    def num_running(self) -> int:
        """Sequences that hold a row."""
        return self._schedule.num_rows

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one, and score requests."""
        return self._schedule.num_waiting + len(self._scores)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.num_running or self.num_waiting)

    # --- what clients ask for -----------------------------------------------------------------

    def rules(self, request: Generate) -> Rules | None:
        """What a request asks of its answer's text. On any thread; may take a second.

        Raises:
            UsageError: a schema that cannot be compiled.
        """
        if self._vocabulary is not None:
            return self._vocabulary.rules(request)
        if request.has_rules:
            raise UsageError("this engine was made without a tokenizer: no stop texts, no schema")
        return None

    @torch.inference_mode()
    def install(self, adapter: Digest, weights: AdapterWeights, holder: str) -> None:
        """Make an adapter resident for `holder`.

        Raises:
            ConflictError: every slot is held.
        """
        known = adapter in self.residents
        slot = self.residents.hold(adapter, holder)
        if not known:
            self._lora.put(slot, weights)
            self._decoder.adapters_changed()

    def release(self, adapter: Digest | None, holder: str) -> Released:
        """Stop keeping an adapter for `holder`."""
        return self.residents.release(adapter, holder)

    def add(self, stream: Stream) -> None:
        """Take a request.

        Raises:
            UsageError: ids that the base does not have, or a prompt that leaves no room.
            NotFoundError: its adapter is not resident.
        """
        request = stream.request
        self._require_ids(request.prompt_ids)
        if len(request.prompt_ids) >= self.context_length:
            raise UsageError(
                f"the prompt has {len(request.prompt_ids)} tokens, this engine takes at most "
                f"{self.context_length - 1}",
                next_step="shorten the conversation, or raise [engine] memory_mib",
            )
        slot = self.residents.use(request.adapter)
        stream.open_choices = request.n
        num_prompt = len(request.prompt_ids)
        limit = min(num_prompt + request.max_tokens, self.context_length)
        for choice in range(request.n):
            sequence = Sequence(stream, choice, slot, list(request.prompt_ids), num_prompt, limit)
            sequence.watch = stream.rules.begin() if stream.rules else None
            self._schedule.add(sequence)

    @torch.inference_mode()
    def cancel(self, stream: Stream) -> None:
        """Stop a request: its client has left."""
        self._end_choices(stream, self._schedule.remove(stream))

    def add_score(self, job: ScoreJob) -> None:
        """Take a score request; `job.slot` is found here.

        Raises:
            UsageError: a row that is empty, too long, or holds ids that the base does not have.
            NotFoundError: its adapter is not resident.
        """
        for row in job.ids:
            self._require_ids(row)
            if not 1 <= len(row) <= self.model.shape.context_length:
                raise UsageError(
                    f"a row to score must have 1 to {self.model.shape.context_length} tokens, "
                    f"got {len(row)}"
                )
        job.slot = self.residents.use(job.adapter)
        self._scores.append(job)

    def fail_all(self, error: EspalierError) -> None:
        """Give up everything under way."""
        for stream in self._schedule.streams():
            self.cancel(stream)
            stream.fail(stream, error)
        while self._scores:
            job = self._scores.popleft()
            self.residents.end(job.adapter)
            job.failed(error)

    # --- one step -------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> None:
        """Admit, compute prompts, decode one token for every row, score a little."""
        self._schedule.admit()
        if self._schedule.filling:
            self._fill()
        if self._schedule.running:
            self._decode()
        if self._scores:
            self._score()

    def _fill(self) -> None:
        """Compute some prompt tokens; a prompt that is done gets its first token at once."""
        model, schedule = self.model, self._schedule
        counts = _portion([sequence.unfilled for sequence in schedule.filling])
        chosen = schedule.filling[: len(counts)]
        starts = [sequence.computed for sequence in chosen]
        first = len(schedule.running)
        attend = Fill(model.shape, self._pages, first, starts, counts, model.device, model.dtype)
        pieces = [s.ids[s.computed : s.computed + c] for s, c in zip(chosen, counts, strict=True)]
        ids = torch.tensor([token for piece in pieces for token in piece], device=model.device)
        num_tokens = len(attend.positions)
        terms = self._lora.terms([sequence.slot for sequence in chosen])
        if terms is not None:
            terms = terms.repeated(torch.tensor(counts, device=model.device), num_tokens)
        hidden = model.hidden(steady.padded(ids, num_tokens), attend.positions, attend, terms)
        done: list[int] = []
        for sequence, count, last in zip(chosen, counts, np.cumsum(counts) - 1, strict=True):
            sequence.computed += count
            if not sequence.unfilled:
                schedule.promote(sequence)
                done.append(int(last))
        if done:
            at = steady.padded(torch.tensor(done, device=model.device), steady.rows(len(done)))
            self._draw(first, len(done), model.logits(hidden[at]))

    def _decode(self) -> None:
        self._schedule.grow()
        running = self._schedule.running
        logits = self._decoder.logits(self._schedule.rows, [s.slot for s in running])
        self._draw(0, len(running), logits)

    def _draw(self, first: int, count: int, logits: Tensor) -> None:
        """Draw the next token of `count` decoding rows from `first` on, and hand it out."""
        rows = slice(first, first + count)
        sequences = self._schedule.running[rows]
        for index, sequence in enumerate(sequences):
            if sequence.watch is not None:
                sequence.watch.forbid(logits[index])
        ids, logprobs, probs = sample(logits[:count], self._schedule.rows.batch(rows))
        drawn = ids.cpu()
        self._schedule.rows.advance(rows, drawn.numpy())
        self._hand_out(sequences, drawn.tolist(), logprobs.tolist(), probs)

    def _hand_out(
        self, sequences: list[Sequence], ids: list[int], logprobs: list[float], probs: Tensor
    ) -> None:
        self.tokens_generated += len(ids)
        ended: list[Sequence] = []
        broken: dict[Stream, EspalierError] = {}
        for row, sequence in enumerate(sequences):
            token, logprob, stream = ids[row], logprobs[row], sequence.stream
            error = _broken(sequence, logprob)
            if error is not None:
                broken[stream] = error
                continue
            sequence.ids.append(token)
            finish = _finish(sequence, token)
            top = stream.request.top_logprobs
            tops = _top(probs[row], top) if top else []
            stream.emit(stream, sequence.choice, token, logprob, tops, finish)
            if finish:
                ended.append(sequence)
        for sequence in ended:
            self._schedule.keep_prefix(sequence)
            self._schedule.vacate(sequence)
            self._end_choices(sequence.stream, 1)
        for stream, error in broken.items():
            self._end_choices(stream, self._schedule.remove(stream, scrub=True))
            stream.fail(stream, error)

    def _score(self) -> None:
        job = self._scores[0]
        if job.advance(self.model, self._lora):
            self._scores.popleft()
            self.residents.end(job.adapter)
            job.done(job.logprobs)

    def _end_choices(self, stream: Stream, count: int) -> None:
        stream.open_choices -= count
        if count and not stream.open_choices:
            self.residents.end(stream.request.adapter)

    def _require_ids(self, ids: list[int]) -> None:
        if ids and max(ids) >= self.model.shape.vocab_size:
            raise UsageError(
                f"id {max(ids)} is not one of this base's {self.model.shape.vocab_size}"
            )


def choose_seed(request: Generate) -> int:
    """The request's seed, or a fresh one."""
    return secrets.randbits(63) if request.seed is None else request.seed


def _portion(unfilled: list[int]) -> list[int]:
    """How many tokens of each prompt to compute now; those left out at the end wait."""
    counts: list[int] = []
    left = _FILL_TOKENS
    for wanted in unfilled:
        count = min(wanted, left)
        padded = (len(counts) + 1) * max([count, *counts])
        if not count or (counts and padded > 2 * _FILL_TOKENS):
            break
        counts.append(count)
        left -= count
    return counts


def _finish(sequence: Sequence, token: int) -> Finish:
    """Why a sequence ends with this token, its last so far; empty where it goes on."""
    ended = sequence.watch is not None and sequence.watch.ends(token)
    if ended or token in sequence.stream.stop_ids:
        return "stop"
    return "length" if len(sequence.ids) >= sequence.limit else ""


def _broken(sequence: Sequence, logprob: float) -> EspalierError | None:
    """Why a sequence cannot go on."""
    if sequence.watch is not None and sequence.watch.error is not None:
        return sequence.watch.error
    if math.isfinite(logprob):
        return None
    return IntegrityError("the model gave numbers that are not finite")


def _top(probs: Tensor, count: int) -> list[tuple[int, float]]:
    """The likeliest ids and their logprobs; an id of probability 0 is left out."""
    values, ids = probs.topk(min(count, len(probs)))
    pairs = zip(ids.tolist(), values.log().tolist(), strict=True)
    return [(token, logprob) for token, logprob in pairs if math.isfinite(logprob)]
