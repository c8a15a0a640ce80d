"""Which version answers a request that asks for the alias.

A session keeps its version as long as that one stands (`Releases.stands`), so that a conversation
does not change its mind in the middle: what a rollback, a stop or a kill takes away, it takes from
everybody. Beside that, the bucket decides, and needs no memory.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from appliance.core.decisions import Release
from appliance.core.digests import Digest, digest_bytes
from policies.canary import Side, group
from serving.releases import Releases

IDLE_S = 30 * 60.0
MAX_AGE_S = 24 * 3600.0
MAX_PINS = 100_000


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """What tells one conversation from another."""

    key_id: str
    session: str | None
    """As ``x-espalier-session`` says."""
    user: str | None
    """As the request's own field for it says."""
    messages: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The session, else the user, else how the conversation began; under its key alone."""
        if self.session is not None:
            return f"{self.key_id}/session/{self.session}"
        if self.user:
            return f"{self.key_id}/user/{digest_bytes(self.user.encode())}"
        return f"{self.key_id}/begin/{digest_bytes(msgspec.json.encode(self._beginning))}"

    @property
    def begins(self) -> bool:
        """Whether nothing was answered in this conversation yet."""
        return not any(_role(message) == "assistant" for message in self.messages)

    @property
    def _beginning(self) -> list[Any]:
        """Up to the first thing that the user said: the same in every later request."""
        first = next((n for n, m in enumerate(self.messages) if _role(m) == "user"), 0)
        return list(self.messages[: first + 1])


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request goes."""

    adapter: Digest | None
    entry: Release
    """In force when it was decided."""
    name: str = ""
    """The caller's; empty where nobody needed it."""
    side: Side | None = None
    """The group that it is compared in, if in one."""


class Router:
    """One alias's. Lives on the gateway's event loop."""

    def __init__(
        self,
        releases: Releases,
        *,
        pin_sessions: bool,
        max_pins: int = MAX_PINS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._releases = releases
        self._pins = _Pins(max_pins) if pin_sessions else None
        self._clock = clock

    def route(self, caller: Caller) -> Route:
        """The version for this request.

        Raises:
            UnavailableError: the alias cannot be served yet.
        """
        entry = self._releases.entry()
        trying = entry.trying
        pinned = self._pins is not None and caller.session is not None
        if trying is None and not pinned:
            return Route(adapter=entry.adapter, entry=entry)
        name, now = caller.name, self._clock()
        side = group(trying.salt, name, trying.share) if trying is not None else None
        adapter = entry.adapter
        if trying is not None and side == "candidate":
            adapter = trying.candidate
        if self._pins is None or not pinned:
            return Route(adapter=adapter, entry=entry, name=name, side=side)
        pin = self._pins.find(caller, now)
        if pin is None or not self._releases.stands(pin.adapter):
            self._pins.put(caller, adapter, entry.generation, now)
        else:
            adapter = pin.adapter
            # Who came with a version from before this stage is in no group: else one group would
            # have them and the other not.
            side = side if pin.generation == entry.generation else None
        return Route(adapter=adapter, entry=entry, name=name, side=side)


class _Pin(msgspec.Struct):
    adapter: Digest | None
    generation: int
    made_at: float
    used_at: float


class _Pins:
    """A bounded table. The key with most pins makes room, by its session that was quiet longest:
    no key can push out another's by asking more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._by_key: dict[str, OrderedDict[str, _Pin]] = {}

    def find(self, caller: Caller, now: float) -> _Pin | None:
        """The pin that holds now; using it keeps it."""
        pins = self._by_key.get(caller.key_id)
        pin = None if pins is None else pins.get(caller.name)
        if pin is None or now - pin.used_at > IDLE_S or now - pin.made_at > MAX_AGE_S:
            return None
        pin.used_at = now
        self._by_key[caller.key_id].move_to_end(caller.name)
        return pin

    def put(self, caller: Caller, adapter: Digest | None, generation: int, now: float) -> None:
        """Pin a session anew."""
        pins = self._by_key.setdefault(caller.key_id, OrderedDict())
        self._total += caller.name not in pins
        pins[caller.name] = _Pin(adapter, generation, now, now)
        pins.move_to_end(caller.name)
        while self._total > self._most:
            key_id = max(self._by_key, key=lambda one: len(self._by_key[one]))
            self._by_key[key_id].popitem(last=False)
            self._total -= 1
            if not self._by_key[key_id]:
                del self._by_key[key_id]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None
