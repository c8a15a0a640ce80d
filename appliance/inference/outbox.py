"""From the engine's thread to the event loop: tokens of a step travel together."""

import asyncio
import time
from collections.abc import Callable

from appliance.core.errors import EspalierError
from appliance.engine.wire import Line
from appliance.inference.sequence import Finish, Stream

_INTERVAL_S = 0.01
"""Tokens that come faster than this wait for one another, unless an answer begins or ends."""

Top = list[tuple[int, float]]


class Answer:
    """What has come for one request and is not yet written. Used by the event loop alone."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._pieces: dict[int, tuple[list[int], list[float], list[Top]]] = {}
        self._ends: list[Line] = []
        self._error: EspalierError | None = None

    def take(self, index: int, token: int, logprob: float, top: Top, finish: Finish) -> None:
        """One more token of a choice."""
        ids, logprobs, tops = self._pieces.setdefault(index, ([], [], []))
        ids.append(token)
        logprobs.append(logprob)
        tops.append(top)
        if finish:
            self._ends.append(Line(index=index, finish_reason=finish))
        self._ready.set()

    def fail(self, error: EspalierError) -> None:
        """Nothing more will come."""
        self._error = error
        self._ready.set()

    async def lines(self, *, logprobs: bool, top_logprobs: bool) -> list[Line]:
        """Wait for something, and return all that there is.

        Raises:
            EspalierError: the engine gave this request up.
        """
        await self._ready.wait()
        self._ready.clear()
        if self._error is not None:
            raise self._error
        lines = [
            Line(
                index=index,
                ids=ids,
                logprobs=values if logprobs else [],
                top_logprobs=tops if top_logprobs else [],
            )
            for index, (ids, values, tops) in self._pieces.items()
        ]
        lines += self._ends
        self._pieces, self._ends = {}, []
        return lines


class Outbox:
    """Collects on the engine's thread, delivers on the loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answers: dict[Stream, Answer] = {}
        self._tokens: list[tuple[Stream, int, int, float, Top, Finish]] = []
        self._acts: list[Callable[[], None]] = []
        self._urgent = False
        self._flushed_at = 0.0

    def open(self, stream: Stream) -> Answer:
        """Begin to collect for a request. On the loop."""
        self._loop = asyncio.get_running_loop()
        self._answers[stream] = answer = Answer()
        return answer

    def close(self, stream: Stream) -> None:
        """What still comes for it is dropped. On the loop."""
        del self._answers[stream]

    def emit(
        self, stream: Stream, index: int, token: int, logprob: float, top: Top, finish: Finish
    ) -> None:
        """Take a token. On the engine's thread."""
        self._tokens.append((stream, index, token, logprob, top, finish))
        if finish or not stream.begun:
            stream.begun = True
            self._urgent = True

    def fail(self, stream: Stream, error: EspalierError) -> None:
        """Give a request up. On the engine's thread."""

        def act() -> None:
            if stream in self._answers:
                self._answers[stream].fail(error)

        self._acts.append(act)

    def flush(self) -> None:
        """Send what there is, unless it can wait. On the engine's thread, after each step."""
        now = time.monotonic()
        due = self._urgent or self._acts or now - self._flushed_at >= _INTERVAL_S
        if self._loop is None or not due or not (self._tokens or self._acts):
            return
        self._loop.call_soon_threadsafe(self._deliver, self._tokens, self._acts)
        self._tokens, self._acts, self._urgent, self._flushed_at = [], [], False, now

    def _deliver(
        self,
        tokens: list[tuple[Stream, int, int, float, Top, Finish]],
        acts: list[Callable[[], None]],
    ) -> None:
        for stream, index, token, logprob, top, finish in tokens:
            answer = self._answers.get(stream)
            if answer is not None:
                answer.take(index, token, logprob, top, finish)
        for act in acts:
            act()
