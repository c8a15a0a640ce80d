"""What the clients know was acknowledged: an answer whole, a feedback answered with 200."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """Thread-safe. Only what reached the client whole is in it."""

    turns: dict[str, str] = field(default_factory=dict)
    """Turn id → the answer's text."""
    feedback: set[str] = field(default_factory=set)
    """Feedback ids."""
    failures: dict[str, int] = field(default_factory=dict)
    """Requests and feedback that were not acknowledged, by error."""
    pieces: int = 0
    """Pieces of work that are done."""
    in_flight: int = 0
    """Requests and feedback that were sent and not answered yet."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Something is on its way until the block ends."""
        with self._lock:
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1

    def answered(self, turn_id: str, text: str) -> None:
        """A whole answer arrived."""
        with self._lock:
            self.turns[turn_id] = text

    def told(self, feedback_id: str) -> None:
        """A feedback was acknowledged."""
        with self._lock:
            self.feedback.add(feedback_id)

    def failed(self, error: Exception) -> None:
        """A request broke; nothing was promised."""
        with self._lock:
            name = type(error).__name__
            self.failures[name] = self.failures.get(name, 0) + 1

    def done(self) -> None:
        """One more piece of work is over."""
        with self._lock:
            self.pieces += 1

    def snapshot(self) -> "Ledger":
        """What was acknowledged up to now."""
        with self._lock:
            return Ledger(dict(self.turns), set(self.feedback), dict(self.failures), self.pieces)
