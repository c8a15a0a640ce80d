"""For how long nobody has asked an engine interactively. Used from one event loop."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.engine.wire import Generate


class Quiet:
    """Knows which requests of people are under way, and when the last of them ended."""

    def __init__(self) -> None:
        self._under_way = 0
        self._ended_at: float | None = None

    @contextmanager
    def during(self, request: Generate) -> Iterator[None]:
        """A request is under way while inside; batch-class ones do not count."""
        if request.priority != "interactive":
            yield
            return
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._ended_at = time.monotonic()

    @property
    def seconds(self) -> float | None:
        """As `Health.people_quiet_s` says it."""
        if self._under_way:
            return 0.0
        return None if self._ended_at is None else time.monotonic() - self._ended_at
