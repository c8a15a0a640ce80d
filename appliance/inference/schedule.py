"""Who has a row of the cache and which blocks, and who waits. No model, no sampling.

Rows are packed: decoding sequences first, then those whose prompts are being computed. A row is an
order of blocks, so moving one copies nothing. Batch-class work fills what interactive work leaves,
and gives its row up when that is wanted.
"""

from collections import deque

import numpy as np

from appliance.inference.blocks import Blocks, block_keys
from appliance.inference.kv_pages import Pages
from appliance.inference.sequence import Rows, Sequence, Stream

_AHEAD = 4
"""Blocks that a growing sequence takes at once: neighbours are mapped together."""


class Schedule:
    """Sequences that run, fill and wait."""

    def __init__(self, pages: Pages, *, max_rows: int, longest: int) -> None:
        self.rows = Rows(max_rows)
        self.running: list[Sequence] = []
        self.filling: list[Sequence] = []
        self.longest = min(longest, pages.count * pages.block)
        """Tokens that one sequence may have."""
        self._pages = pages
        self._blocks = Blocks(pages.count)
        self._max_rows = max_rows
        self._waiting: dict[bool, deque[Sequence]] = {True: deque(), False: deque()}

    @property
    def num_rows(self) -> int:
        """Sequences that hold a row."""
        return len(self.running) + len(self.filling)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one."""
        return sum(map(len, self._waiting.values()))

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""
        self._waiting[sequence.interactive].append(sequence)

    def remove(self, stream: Stream, *, scrub: bool = False) -> int:
        """Take a request's sequences away, wherever they are; returns how many there were.

        scrub: their numbers may not be finite, and zero times them would spoil others' sums.
        """
        gone, blocks = 0, []
        for queue in self._waiting.values():
            for sequence in [s for s in queue if s.stream is stream]:
                queue.remove(sequence)
                gone += 1
        for sequence in [s for s in self.running + self.filling if s.stream is stream]:
            blocks += sequence.blocks
            self.vacate(sequence)
            gone += 1
        if scrub:
            self._pages.scrub(self._blocks.forget_unused(blocks))
        return gone

    def streams(self) -> list[Stream]:
        """Every request under way."""
        waiting = (s for queue in self._waiting.values() for s in queue)
        return list(dict.fromkeys(s.stream for s in [*self.running, *self.filling, *waiting]))

    def admit(self) -> None:
        """Give rows to those who wait, interactive ones first, as far as there is room."""
        for interactive in (True, False):
            queue = self._waiting[interactive]
            deferred: list[Sequence] = []
            while queue and len(deferred) <= self._max_rows:
                if self._starts_like_one_under_way(queue[0]):
                    deferred.append(queue.popleft())
                elif self._make_room(queue[0]):
                    self._place(queue.popleft())
                else:
                    break
            queue.extendleft(reversed(deferred))

    def grow(self) -> None:
        """Let every decoding row have room for its next token; the last to come may give way."""
        count = len(self.running)
        full = np.flatnonzero(self.rows.position[:count] >= self.rows.room[:count])
        for sequence in [self.running[row] for row in full]:
            while sequence in self.running and not self._extend(sequence):
                self._preempt(only_batch=False)

    def promote(self, sequence: Sequence) -> None:
        """From the rows that are filled to those that decode; what was computed can be found."""
        self._blocks.keep(sequence.keys, sequence.blocks)
        at = self.filling.index(sequence)
        row = len(self.running)
        if at:
            first = self.filling[0]
            self._pages.place(row, 0, sequence.blocks)
            self._pages.place(row + at, 0, first.blocks)
            self.filling[at] = first
        del self.filling[0]
        self.running.append(sequence)
        self.rows.put(row, sequence)
        self.rows.room[row] = len(sequence.blocks) * self._pages.block

    def keep_prefix(self, sequence: Sequence) -> None:
        """Let the next turn find this one: its prompt begins with this prompt and its answer."""
        whole = (len(sequence.ids) - 1) // self._pages.block
        ids = sequence.ids[: whole * self._pages.block]
        self._blocks.keep(self._keys(sequence, ids), sequence.blocks)

    def vacate(self, sequence: Sequence) -> None:
        """Take a sequence's row; the last decoding row and the last filling one close the gap."""
        if sequence in self.running:
            row, last = self.running.index(sequence), len(self.running) - 1
            if row != last:
                self._pages.place(row, 0, self.running[last].blocks)
                self.rows.move(last, row)
                self.running[row] = self.running[last]
            del self.running[last]
            if self.filling:
                self._pages.place(last, 0, self.filling[-1].blocks)
                self.filling.insert(0, self.filling.pop())
        else:
            at, last = self.filling.index(sequence), len(self.filling) - 1
            if at != last:
                self._pages.place(len(self.running) + at, 0, self.filling[last].blocks)
                self.filling[at] = self.filling[last]
            del self.filling[last]
        self._blocks.drop(sequence.blocks)
        sequence.blocks = []

    def _keys(self, sequence: Sequence, ids: list[int]) -> list[bytes]:
        return block_keys(sequence.adapter, ids, self._pages.block)

    def _starts_like_one_under_way(self, sequence: Sequence) -> bool:
        """Whether its next block is being computed now: waiting costs less than doing it twice."""
        sequence.keys = self._keys(sequence, sequence.ids[:-1])
        known = len(self._blocks.find(sequence.keys))
        if known == len(sequence.keys):
            return False
        return any(
            known < len(other.keys) and other.keys[known] == sequence.keys[known]
            for other in self.filling
        )

    def _make_room(self, sequence: Sequence) -> bool:
        """Whether there is room for it; an interactive one may take batch-class ones'."""
        while not self._fits(sequence):
            if not (sequence.interactive and self._preempt(only_batch=True)):
                return False
        return True

    def _fits(self, sequence: Sequence) -> bool:
        found = self._found(sequence)
        wanted = self._needed(sequence) - len(found) + self._blocks.num_kept(found)
        return (
            self.num_rows < self._max_rows
            and wanted <= self._blocks.available
            and self._pages.can_place(self._needed(sequence), self.num_rows)
        )

    def _needed(self, sequence: Sequence) -> int:
        """Blocks for what it is now; its next token goes where its last one is fed."""
        return -(-len(sequence.ids) // self._pages.block)

    def _found(self, sequence: Sequence) -> list[int]:
        """Full blocks that are here already."""
        full = (len(sequence.ids) - 1) // self._pages.block
        return self._blocks.find(sequence.keys[:full])

    def _place(self, sequence: Sequence) -> None:
        """Give a sequence the next row, with what is known of it."""
        found = self._found(sequence)
        self._blocks.share(found)
        sequence.computed = len(found) * self._pages.block
        partial = self._blocks.find(sequence.keys)[len(found) :]
        # Held until it is copied: what is taken meanwhile must not be it.
        self._blocks.share(partial)
        wanted = self._needed(sequence) - len(found)
        if wanted > self._blocks.available:
            self._blocks.drop(partial)
            partial = []
        fresh = self._blocks.take(wanted, after=found[-1] if found else -1)
        if partial:
            filled = len(sequence.ids) - 1 - sequence.computed
            self._pages.copy(partial[0], fresh[0], filled)
            sequence.computed += filled
            self._blocks.drop(partial)
        sequence.blocks = found + fresh
        self._pages.place(self.num_rows, 0, sequence.blocks)
        if sequence.choice == 0 and len(sequence.ids) == sequence.num_prompt:
            sequence.stream.cached_tokens = sequence.computed
        self.filling.append(sequence)
        if sequence.unfilled == 1:
            self.promote(sequence)

    def _extend(self, sequence: Sequence) -> bool:
        """Give a decoding sequence more blocks; whether there were any."""
        spare = self._blocks.available > _AHEAD * self._max_rows
        count = _AHEAD if spare else min(1, self._blocks.available)
        if not count or not self._pages.can_place(count, self.num_rows):
            return False
        row, first = self.running.index(sequence), len(sequence.blocks)
        left = -(-self.longest // self._pages.block) - first
        fresh = self._blocks.take(min(count, left), after=sequence.blocks[-1])
        sequence.blocks += fresh
        self._pages.place(row, first, fresh)
        self.rows.room[row] = len(sequence.blocks) * self._pages.block
        return True

    def _preempt(self, *, only_batch: bool) -> bool:
        """Send the sequence that came last back to wait; its tokens are kept."""
        candidates = [s for s in self.running + self.filling if not (only_batch and s.interactive)]
        if not candidates:
            return False
        victim = min(reversed(candidates), key=lambda s: (s.interactive, len(s.ids)))
        if victim in self.running:
            self.keep_prefix(victim)
        self.vacate(victim)
        victim.computed = 0
        self._waiting[victim.interactive].appendleft(victim)
        return True
