"""The engine itself: each step admits, fills caches, decodes one token a row. No threads, no I/O.

Rows of the cache are packed: decoding sequences first, then those whose prompts are being
computed. Batch-class work fills what interactive work leaves, and gives its row up when that is
wanted; its noise is keyed by position, so it goes on with the same tokens.
"""

import math
import secrets
from collections import deque

import numpy as np
import torch
from torch import Tensor

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError, IntegrityError, UsageError
from appliance.engine.wire import Generate, Released
from appliance.inference.attention import Decode, Fill
from appliance.inference.kv_cache import KVCache
from appliance.inference.lora import AdapterWeights, LoraSlots, SlotTerms
from appliance.inference.model import Model
from appliance.inference.prefix_cache import BLOCK, PrefixCache, block_keys
from appliance.inference.residents import Residents
from appliance.inference.sampling import sample
from appliance.inference.scoring import ScoreJob
from appliance.inference.sequence import Finish, Rows, Sequence, Stream

_FILL_TOKENS = 1024
"""Prompt tokens computed between two decoding steps, so that nobody's stream stands still."""


class Engine:
    """One base, its adapters, and the sequences under way."""

    def __init__(
        self, model: Model, *, max_batch: int, slots: int, cache_tokens: int, prefix_tokens: int
    ) -> None:
        device, dtype = model.device, model.dtype
        self.model = model
        self.residents = Residents(slots)
        self.tokens_generated = 0
        self._lora = LoraSlots(model.shape, slots=slots, device=device, dtype=dtype)
        self._cache = KVCache(
            model.shape, max_rows=max_batch, max_tokens=cache_tokens, device=device, dtype=dtype
        )
        self._prefixes = PrefixCache(
            model.shape, max_tokens=prefix_tokens, device=device, dtype=dtype
        )
        self._rows = Rows(max_batch)
        self._running: list[Sequence] = []
        self._filling: list[Sequence] = []
        self._waiting: dict[bool, deque[Sequence]] = {True: deque(), False: deque()}
        self._scores: deque[ScoreJob] = deque()
        self._terms: SlotTerms | None = None
        self._terms_of: list[int] = []

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._cache.longest

    @property
    def num_running(self) -> int:
        """Sequences that hold a row."""
        return len(self._running) + len(self._filling)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one, and score requests."""
        return sum(map(len, self._waiting.values())) + len(self._scores)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.num_running or self.num_waiting)

    # --- what clients ask for -----------------------------------------------------------------

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
            self._terms_of = []

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
        queue = self._waiting[request.priority == "interactive"]
        for choice in range(request.n):
            queue.append(
                Sequence(stream, choice, slot, list(request.prompt_ids), num_prompt, limit)
            )

    @torch.inference_mode()
    def cancel(self, stream: Stream) -> None:
        """Stop a request: its client has left."""
        for queue in self._waiting.values():
            for sequence in [s for s in queue if s.stream is stream]:
                queue.remove(sequence)
                self._end_choice(stream)
        for sequence in [s for s in self._running + self._filling if s.stream is stream]:
            self._vacate(sequence)
            self._end_choice(stream)

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
        streams = {s.stream: None for s in [*self._running, *self._filling]}
        streams |= {s.stream: None for queue in self._waiting.values() for s in queue}
        for stream in streams:
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
        self._admit()
        if self._filling:
            self._fill()
        if self._running:
            self._decode()
        if self._scores:
            self._score()

    def _admit(self) -> None:
        for interactive in (True, False):
            queue = self._waiting[interactive]
            deferred: list[Sequence] = []
            while queue and len(deferred) <= self._cache.rows:
                if self._starts_like_one_under_way(queue[0]):
                    deferred.append(queue.popleft())
                elif self._make_room(queue[0]):
                    self._place(queue.popleft())
                else:
                    break
            queue.extendleft(reversed(deferred))

    def _starts_like_one_under_way(self, sequence: Sequence) -> bool:
        """Whether its next block is being computed now: waiting costs less than doing it twice."""
        sequence.keys = block_keys(sequence.adapter, sequence.ids[:-1])
        known = self._prefixes.match(sequence.keys)
        if known == len(sequence.keys):
            return False
        return any(
            known < len(other.keys) and other.keys[known] == sequence.keys[known]
            for other in self._filling
        )

    def _make_room(self, sequence: Sequence) -> bool:
        """Whether there is a row for it; an interactive one may take a batch-class one's."""
        while not self._cache.can_hold(self.num_running + 1, len(sequence.ids)):
            if not (sequence.interactive and self._preempt(only_batch=True)):
                return False
        return True

    def _preempt(self, *, only_batch: bool) -> bool:
        """Send the sequence that came last back to wait; its tokens are kept."""
        candidates = [
            s for s in self._running + self._filling if not (only_batch and s.interactive)
        ]
        if not candidates:
            return False
        victim = min(reversed(candidates), key=lambda s: (s.interactive, len(s.ids)))
        self._vacate(victim)
        victim.computed = 0
        self._waiting[victim.interactive].appendleft(victim)
        return True

    def _place(self, sequence: Sequence) -> None:
        """Give a sequence the next row, with what the prefix cache has of it."""
        row = self.num_running
        self._cache.grow(len(sequence.ids), row)
        matched = self._prefixes.match(sequence.keys)
        sequence.computed = min(matched * BLOCK, len(sequence.ids) - 1)
        self._prefixes.load(sequence.keys[:matched], self._cache.data[:, row], sequence.computed)
        if sequence.choice == 0 and len(sequence.ids) == sequence.num_prompt:
            sequence.stream.cached_tokens = sequence.computed
        self._filling.append(sequence)
        if sequence.unfilled == 1:
            self._promote(sequence)

    def _fill(self) -> None:
        """Compute some prompt tokens; a prompt that is done gets its first token at once."""
        counts: list[int] = []
        left = _FILL_TOKENS
        for sequence in self._filling:
            count = min(sequence.unfilled, left)
            padded = (len(counts) + 1) * max([count, *counts])
            if not count or (counts and padded > 2 * _FILL_TOKENS):
                break
            counts.append(count)
            left -= count
        chosen = self._filling[: len(counts)]
        starts = [sequence.computed for sequence in chosen]
        attend = Fill(self.model.shape, self._cache, len(self._running), starts, counts)
        pieces = [s.ids[s.computed : s.computed + c] for s, c in zip(chosen, counts, strict=True)]
        ids = torch.tensor([token for piece in pieces for token in piece], device=self.model.device)
        terms = self._lora.terms([sequence.slot for sequence in chosen])
        if terms is not None:
            terms = terms.repeated(torch.tensor(counts, device=self.model.device))
        hidden = self.model.hidden(ids, attend.positions, attend, terms)
        done: list[int] = []
        first = len(self._running)
        for sequence, count, last in zip(chosen, counts, np.cumsum(counts) - 1, strict=True):
            sequence.computed += count
            if not sequence.unfilled:
                row = self._cache.data[:, len(self._running) + self._filling.index(sequence)]
                self._prefixes.store(sequence.keys, row, len(sequence.ids) - 1)
                self._promote(sequence)
                done.append(int(last))
        if done:
            self._draw(first, hidden[torch.tensor(done, device=self.model.device)])

    def _promote(self, sequence: Sequence) -> None:
        """From the rows that are filled to those that decode."""
        at = self._filling.index(sequence)
        row = len(self._running)
        if at:
            first = self._filling[0]
            self._cache.swap(row, row + at, max(first.computed, sequence.computed))
            self._filling[at] = first
        del self._filling[0]
        self._running.append(sequence)
        self._rows.put(row, sequence)

    def _decode(self) -> None:
        while True:
            count = len(self._running)
            longest = int(self._rows.position[:count].max()) + 1
            if self._cache.can_hold(self.num_running, longest):
                break
            self._preempt(only_batch=False)
        self._cache.grow(longest, self.num_running)
        model, device = self.model, self.model.device
        ids = torch.from_numpy(self._rows.last_id[:count]).to(device)
        positions = torch.from_numpy(self._rows.position[:count]).to(device)
        attend = Decode(model.shape, self._cache, positions, longest)
        self._draw(0, model.hidden(ids, positions, attend, self._decode_terms()))

    def _decode_terms(self) -> SlotTerms | None:
        slots = [sequence.slot for sequence in self._running]
        if slots != self._terms_of:
            self._terms, self._terms_of = self._lora.terms(slots), slots
        return self._terms

    def _draw(self, first: int, hidden: Tensor) -> None:
        """Draw the next token of the decoding rows from `first` on, and hand it out."""
        rows = slice(first, first + len(hidden))
        ids, logprobs, probs = sample(self.model.logits(hidden), self._rows.batch(rows))
        drawn = ids.cpu()
        self._rows.advance(rows, drawn.numpy())
        self._hand_out(self._running[rows], drawn.tolist(), logprobs.tolist(), probs)

    def _hand_out(
        self, sequences: list[Sequence], ids: list[int], logprobs: list[float], probs: Tensor
    ) -> None:
        self.tokens_generated += len(ids)
        ended: list[Sequence] = []
        broken: list[Sequence] = []
        for row, sequence in enumerate(sequences):
            token, logprob, stream = ids[row], logprobs[row], sequence.stream
            if not math.isfinite(logprob):
                broken.append(sequence)
                continue
            sequence.ids.append(token)
            finish: Finish = ""
            if token in stream.stop_ids:
                finish = "stop"
            elif len(sequence.ids) >= sequence.limit:
                finish = "length"
            top = stream.request.top_logprobs
            stream.emit(
                stream,
                sequence.choice,
                token,
                logprob,
                _top(probs[row], top) if top else [],
                finish,
            )
            if finish:
                ended.append(sequence)
        for sequence in ended:
            self._keep_prefix(sequence)
            self._vacate(sequence)
            self._end_choice(sequence.stream)
        for stream in {sequence.stream for sequence in broken}:
            self.cancel(stream)
            stream.fail(stream, IntegrityError("the model gave numbers that are not finite"))

    def _score(self) -> None:
        job = self._scores[0]
        if job.advance(self.model, self._lora):
            self._scores.popleft()
            self.residents.end(job.adapter)
            job.done(job.logprobs)

    # --- rows -----------------------------------------------------------------------------------

    def _keep_prefix(self, sequence: Sequence) -> None:
        """A next turn's prompt begins with this one and its answer."""
        row = self._running.index(sequence)
        whole = (len(sequence.ids) - 1) // BLOCK * BLOCK
        keys = block_keys(sequence.adapter, sequence.ids[:whole])
        self._prefixes.store(keys, self._cache.data[:, row], whole)

    def _vacate(self, sequence: Sequence) -> None:
        """Take a sequence's row; the last decoding row and the last filling one close the gap."""
        if sequence in self._running:
            row, last = self._running.index(sequence), len(self._running) - 1
            if row != last:
                self._cache.move(last, row, int(self._rows.position[last]))
                self._rows.move(last, row)
                self._running[row] = self._running[last]
            del self._running[last]
            if self._filling:
                self._cache.move(last + len(self._filling), last, self._filling[-1].computed)
                self._filling.insert(0, self._filling.pop())
        else:
            at, last = self._filling.index(sequence), len(self._filling) - 1
            if at != last:
                first = len(self._running)
                self._cache.move(first + last, first + at, self._filling[last].computed)
                self._filling[at] = self._filling[last]
            del self._filling[last]
        if not self.num_running:
            self._cache.reset()

    def _end_choice(self, stream: Stream) -> None:
        stream.open_choices -= 1
        if not stream.open_choices:
            self.residents.end(stream.request.adapter)

    def _require_ids(self, ids: list[int]) -> None:
        if ids and max(ids) >= self.model.shape.vocab_size:
            raise UsageError(
                f"id {max(ids)} is not one of this base's {self.model.shape.vocab_size}"
            )


def choose_seed(request: Generate) -> int:
    """The request's seed, or a fresh one."""
    return secrets.randbits(63) if request.seed is None else request.seed


def _top(probs: Tensor, count: int) -> list[tuple[int, float]]:
    """The likeliest ids and their logprobs; an id of probability 0 is left out."""
    values, ids = probs.topk(min(count, len(probs)))
    pairs = zip(ids.tolist(), values.log().tolist(), strict=True)
    return [(token, logprob) for token, logprob in pairs if math.isfinite(logprob)]
