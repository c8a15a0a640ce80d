"""The requests under way: how many fit, whose they are, and what ends one.

A request takes its place before its body is read and gives it back when its last byte is out;
whatever became of it, it is charged and counted then. Lives on the gateway's event loop.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from appliance.core.errors import EspalierError
from policies.limits import has_room
from serving.keys import Key
from serving.metrics import Metrics
from serving.openai_errors import ApiError, from_espalier
from serving.pauses import Pause, Pauses
from serving.quota import Charge

if TYPE_CHECKING:
    from serving.exchange import Exchange


class UnderWay:
    """Every place that is taken now."""

    def __init__(self, metrics: Metrics, *, max_under_way: int, max_waiting: int) -> None:
        self.metrics = metrics
        self._places: set[Place] = set()
        self._all = _Room("under way", max_under_way)
        self._waiting = _Room("waiting", max_waiting)

    @property
    def total(self) -> int:
        """Requests under way."""
        return self._all.total

    @property
    def waiting(self) -> int:
        """Those of them whose first token has not come."""
        return self._waiting.total

    def enter(self, key: Key, route: str) -> "Place":
        """A place for the request of the running task.

        Raises:
            ApiError: 503; the gateway, or this key's share of it, is full.
        """
        self._all.require(key)
        self._waiting.require(key)
        place = Place(self, key, route)
        self._places.add(place)
        self._all.take(key)
        self._waiting.take(key)
        return place

    def first_token(self, place: "Place") -> None:
        """It waits no longer."""
        self._waiting.give_back(place.key)

    def leave(self, place: "Place") -> None:
        """What a place does at its end."""
        self._places.discard(place)
        self._all.give_back(place.key)
        if place.first_token_s is None:
            self._waiting.give_back(place.key)
        self.metrics.count(place)

    def end_killed(self, pauses: Pauses) -> None:
        """End the requests whose key, agent or team was killed."""
        for place in list(self._places):
            stopped = pauses.of(place.key)
            if stopped is not None and stopped.killed:
                place.kill(refusal(stopped))


class Place:
    """One request under way, as a context. A kill leaves it as the refusal that the client gets."""

    def __init__(self, under_way: UnderWay, key: Key, route: str) -> None:
        self.key = key
        self.route = route
        self.seconds = 0.0
        self.first_token_s: float | None = None
        self.exchange: Exchange | None = None
        self.on_end: Callable[[Place], None] | None = None
        """Told when it is over."""
        self.error: ApiError | None = None
        """What the client was told, in its status or in its stream."""
        self.left = False
        """The client did not wait for the end."""
        self.killed: ApiError | None = None
        """Set once it is to be ended; its task is cancelled then."""
        self._under_way = under_way
        self._charge: Charge | None = None
        self._task = asyncio.current_task()
        self._began = time.perf_counter()

    def carry(self, exchange: "Exchange", charge: Charge) -> None:
        """From now on it is this exchange, and pays for it."""
        self.exchange = exchange
        self._charge = charge

    def token(self) -> None:
        """Tokens came; the first time counts."""
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self._began
            self._under_way.first_token(self)

    @property
    def prompt_tokens(self) -> int:
        """Those that an engine computed, once it is over. One that failed before its first token
        took nothing; who left before it, or was killed, has had the prompt computed.
        """
        exchange = self.exchange
        left = self.left or self.killed is not None
        if exchange is None or (self.first_token_s is None and not (left and exchange.asked)):
            return 0
        return len(exchange.generate.prompt_ids)

    def kill(self, error: ApiError) -> None:
        """End it now: its task is cancelled, and the engine's stream closed with it."""
        if self.killed is None and self._task is not None:
            self.killed = error
            self._task.cancel()

    def spare(self) -> ApiError | None:
        """After a cancellation: what the client is told of a kill; None if it was no kill."""
        if self.killed is not None and self._task is not None:
            self._task.uncancel()
        return self.killed

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            killed = self.spare()
            self.error, self.left = killed, killed is None
        elif error is not None:
            self.error = _told(error)
        self.seconds = time.perf_counter() - self._began
        if self.exchange is not None and self._charge is not None:
            self._charge.settle(self.prompt_tokens, self.exchange.completion_tokens)
        self._under_way.leave(self)
        if self.on_end is not None:
            self.on_end(self)
        if self.killed is not None and isinstance(error, asyncio.CancelledError):
            raise self.killed from None


class _Room:
    """A bounded number of places, shared between keys."""

    def __init__(self, name: str, bound: int) -> None:
        self.total = 0
        self._name = name
        self._bound = bound
        self._held: Counter[str] = Counter()

    def require(self, key: Key) -> None:
        held = self._held[key.key_id]
        keys = len(self._held) + (held == 0)
        if not has_room(bound=self._bound, total=self.total, held=held, keys=keys):
            raise ApiError(
                503,
                f"the gateway is full: {self.total} requests {self._name}, {held} of them of this "
                f"key, of at most {self._bound}; try again",
                kind="service_unavailable",
                code="overloaded",
            )

    def take(self, key: Key) -> None:
        self.total += 1
        self._held[key.key_id] += 1

    def give_back(self, key: Key) -> None:
        self.total -= 1
        self._held[key.key_id] -= 1
        if not self._held[key.key_id]:
            del self._held[key.key_id]


def _told(error: BaseException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EspalierError):
        return from_espalier(error)
    return ApiError(500, "an error of ours", kind="server_error")


def refusal(stopped: Pause) -> ApiError:
    """What a pause tells its agents. A 403, because clients try a 429 again by themselves."""
    return ApiError(403, stopped.message, kind="permission_error", code=stopped.act)
