"""One choice of one request, from waiting to its end; and the rows' numbers that steps need."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError
from appliance.engine.wire import Generate
from appliance.inference import steady
from appliance.inference.sampling import Batch, noise
from appliance.inference.vocabulary import Rules, Watch

Finish = Literal["", "stop", "length"]


@dataclass(slots=True, eq=False)
class Stream:
    """A request under way, and where its tokens go."""

    request: Generate
    seed: int
    emit: "Emit"
    fail: Callable[["Stream", EspalierError], None]
    stop_ids: frozenset[int] = frozenset()
    rules: Rules | None = None
    """Its stop texts and its schema."""
    cached_tokens: int = 0
    """Prompt tokens of the first choice that were not computed again."""
    open_choices: int = 0
    begun: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice. `ids` is its prompt and what was generated; all but the last go to the cache."""

    stream: Stream
    choice: int
    slot: int
    ids: list[int]
    num_prompt: int
    limit: int
    """Length at which it ends."""
    keys: list[bytes] = field(default_factory=list)
    """Prefix-cache keys of ids[:-1] at admission."""
    computed: int = 0
    """Tokens that stand in its cache row, while that is being filled."""
    blocks: list[int] = field(default_factory=list)
    """Of the cache, in order, while it has a row."""
    watch: Watch | None = None
    """What the rules make of its text so far."""

    @property
    def adapter(self) -> Digest | None:
        """The adapter that writes it; None is the base."""
        return self.stream.request.adapter

    @property
    def interactive(self) -> bool:
        """Whether somebody waits for it."""
        return self.stream.request.priority == "interactive"

    @property
    def unfilled(self) -> int:
        """Tokens that the cache does not hold yet. The last of them a decoding step can feed."""
        return len(self.ids) - self.computed


Emit = Callable[[Stream, int, int, float, list[tuple[int, float]], Finish], None]
"""Takes (stream, choice, id, logprob, top logprobs, finish reason) for every token."""


class Rows:
    """Numbers per row, in arrays that a step takes slices of."""

    def __init__(self, count: int) -> None:
        count = steady.rows(count)
        self.last_id = np.zeros(count, dtype=np.int64)
        self.position = np.zeros(count, dtype=np.int64)
        """Index of the last id, which the next step feeds."""
        self.room = np.zeros(count, dtype=np.int64)
        """Tokens that a row's blocks hold."""
        self._temperature = np.zeros(count, dtype=np.float32)
        self._top_p = np.ones(count, dtype=np.float32)
        self._top_k = np.zeros(count, dtype=np.int64)
        self._noise: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * count
        self._drawn = np.zeros(count, dtype=np.int64)

    def put(self, row: int, sequence: Sequence) -> None:
        """Describe a sequence that is ready to decode."""
        request = sequence.stream.request
        self.last_id[row] = sequence.ids[-1]
        self.position[row] = len(sequence.ids) - 1
        self._temperature[row] = request.temperature
        self._top_p[row] = request.top_p
        self._top_k[row] = request.top_k
        self._drawn[row] = len(sequence.ids) - sequence.num_prompt
        self._noise[row] = noise(
            sequence.stream.seed, sequence.choice, sequence.limit - sequence.num_prompt
        )

    def move(self, source: int, target: int) -> None:
        """Copy one row's numbers to another."""
        for numbers in (
            *(self.last_id, self.position, self.room),
            *(self._temperature, self._top_p, self._top_k, self._drawn),
        ):
            numbers[target] = numbers[source]
        self._noise[target] = self._noise[source]

    def batch(self, rows: slice) -> Batch:
        """How these rows are sampled now."""
        drawn = self._drawn[rows].tolist()
        uniform = [series[at] for series, at in zip(self._noise[rows], drawn, strict=True)]
        return Batch(
            self._temperature[rows],
            self._top_p[rows],
            self._top_k[rows],
            np.array(uniform, dtype=np.float32),
        )

    def advance(self, rows: slice, ids: NDArray[np.int64]) -> None:
        """Each of these rows got one more token."""
        self.last_id[rows] = ids
        self.position[rows] += 1
        self._drawn[rows] += 1
