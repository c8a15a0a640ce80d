"""Trying one alias's candidate out: its answers are watched, and the alias moved on, or back.

The rule is policies/canary.py, the moves are releases.py. What was observed lives in memory: after
a restart the rollout goes on at the journal's stage, and is observed anew.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.core.decisions import Release
from appliance.core.digests import Digest
from appliance.core.errors import ConflictError, EspalierError
from appliance.core.records import Feedback
from appliance.core.settings import Rollout as RolloutSettings
from policies.canary import Side, Trial
from serving.observations import measure
from serving.releases import Releases
from serving.routing import Caller, Route
from serving.shadow import Shadow

if TYPE_CHECKING:
    from serving.exchange import Exchange
    from serving.under_way import Place

_RETRY_S = 1.0
_ONE_IS_ENOUGH_S = 24 * 3600.0
"""After so long in a stage one key's pairs fill it: else one that is hardly used holds it up."""
_REMEMBERED = 16_384
_log = logging.getLogger("espalier.canary")


class Canary:
    """Lives on the gateway's event loop. `run` is its task."""

    def __init__(
        self,
        releases: Releases,
        shadow: Shadow,
        settings: RolloutSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._releases = releases
        self._shadow = shadow
        self._settings = settings
        self._clock = clock
        self._due = asyncio.Event()
        self._timed = False
        """Whether the stage is full and waits for its time."""
        self._salt = ""
        self._generation = 0
        self._trial = Trial(settings.metrics, settings.alpha)
        self._answered: OrderedDict[str, tuple[str, str, Side]] = OrderedDict()
        """Turn, or key and session → key, name, group: whom a feedback is about."""

    async def run(self) -> None:
        """Move the alias whenever enough is known, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._step()
            except EspalierError as error:
                # A full disk, or somebody who was first: what is served stays, and it tries again.
                _log.warning("the rollout of %s waits: %s", self._releases.alias, error)
                await asyncio.sleep(_RETRY_S)
                self._due.set()
            except Exception:
                _log.exception("the rollout of %s failed", self._releases.alias)

    def ended(self, route: Route, caller: Caller, place: "Place") -> None:
        """A request for the alias has ended, well or not."""
        exchange, trying = place.exchange, route.entry.trying
        if exchange is None or trying is None or place.killed is not None:
            return
        if not self._watches(route.entry):
            return
        self._trial.met(caller.key_id)
        if trying.share == 0:
            if place.error is None and not place.left and not self._trial.knows(caller.name):
                self._copy(exchange, route.entry, trying.candidate, caller)
        elif route.side is not None:
            self._remember(exchange, caller, route.side)
            values = _values(exchange, caller, place)
            self._trial.observe(route.side, caller.name, values, caller.key_id)
            self._look()

    def heard(self, feedback: Feedback) -> None:
        """Somebody said how an answer turned out."""
        target = feedback.target
        about = target.turn_id or f"{feedback.actor}/{target.session}"
        key_id, name, side = self._answered.get(about, ("", "", None))
        if side is None or feedback.kind != "outcome" or feedback.outcome == "unknown":
            return
        # A key's word counts for its own answers, a person's for every one.
        if feedback.actor != key_id and not feedback.actor.startswith("person:"):
            return
        if self._releases.ready and self._watches(self._releases.entry()):
            values = {"feedback": float(feedback.outcome == "failed")}
            self._trial.observe(side, name, values, key_id)
            self._look()

    def shown(self) -> dict[str, Any] | None:
        """What is tried out now and what is known of it; None while nothing is."""
        entry = self._releases.entry() if self._releases.ready else None
        if entry is None or entry.trying is None or not self._watches(entry):
            return None
        trying = entry.trying
        return {
            "candidate": trying.candidate,
            "share": trying.share,
            "stage": entry.reason,
            "since": entry.at,
            "pairs": self._trial.stage_pairs,
            "needed": self._needed(entry),
            "evidence": [
                {**msgspec.to_builtins(found), "pairs": found.pairs}
                for found in self._trial.evidence
            ],
        }

    async def _step(self) -> None:
        if not self._releases.ready or not self._watches(entry := self._releases.entry()):
            return
        harm = self._trial.harm
        try:
            if harm is not None:
                await self._releases.stop(entry, str(harm), evidence=msgspec.to_builtins(harm))
            elif self._full(entry):
                wait_s = entry.at + self._settings.stage_minutes * 60 - self._clock()
                if wait_s <= 0:
                    await self._releases.advance(entry)
                elif not self._timed:
                    self._timed = True
                    asyncio.get_running_loop().call_later(wait_s, self._due.set)
        except ConflictError:
            # The journal is ahead of what is served here; whoever moved it has decided.
            await self._releases.follow()

    def _watches(self, entry: Release) -> bool:
        """Turn to the rollout and the stage of `entry`, unless a later one is watched already."""
        trying = entry.trying
        if trying is None or entry.generation < self._generation:
            return False
        if trying.salt != self._salt:
            self._salt = trying.salt
            self._trial = Trial(self._settings.metrics, self._settings.alpha)
            self._answered.clear()
        if entry.generation != self._generation:
            self._generation = entry.generation
            self._timed = False
            self._trial.begin_stage()
        return True

    def _copy(
        self, exchange: "Exchange", entry: Release, candidate: Digest, caller: Caller
    ) -> None:
        champion = measure(exchange)

        def told(values: dict[str, float]) -> None:
            if self._watches(entry):
                self._trial.observe_pair(
                    caller.name, candidate=values, champion=champion, owner=caller.key_id
                )
                self._look()

        self._shadow.copy(exchange, candidate, told)

    def _remember(self, exchange: "Exchange", caller: Caller, side: Side) -> None:
        names = [exchange.request_id]
        if caller.session is not None:
            names.append(f"{caller.key_id}/{caller.session}")
        for name in names:
            self._answered[name] = (caller.key_id, caller.name, side)
            self._answered.move_to_end(name)
        while len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)

    def _look(self) -> None:
        ready = self._releases.ready and not self._timed
        if self._trial.harm is not None or (ready and self._full(self._releases.entry())):
            self._due.set()

    def _full(self, entry: Release) -> bool:
        """Enough for the next stage. Not while there may be harm, be it for one key alone."""
        long = self._clock() - entry.at > _ONE_IS_ENOUGH_S
        return not self._trial.suspect and self._trial.stage_full(
            self._needed(entry), one_is_enough=long
        )

    def _needed(self, entry: Release) -> int:
        shadow = entry.trying is not None and entry.trying.share == 0
        return self._settings.shadow_requests if shadow else self._settings.stage_requests


def _values(exchange: "Exchange", caller: Caller, place: "Place") -> dict[str, float]:
    if place.left:
        return {"left": 1.0}
    if place.error is not None:
        # What the client itself got wrong says nothing of the version.
        return {"left": 0.0, "errors": 1.0} if place.error.status >= 500 else {}
    values = {"left": 0.0, **measure(exchange)}
    # Later requests depend on what earlier ones left in the engine's cache, and for which version.
    if caller.begins and place.first_token_s is not None:
        values |= {"first_token": place.first_token_s, "whole": place.seconds}
    return values
