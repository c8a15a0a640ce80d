"""The worker: takes the open round under a lease and moves it on, one step at a time.

Killed anywhere, it goes on: the state is in the database, the step runs again.
"""

import logging
import os
import threading
import time
import uuid

from appliance.control import law
from appliance.control.budget import waits
from appliance.control.reading import data
from appliance.control.rounds import LEASE_S, Order, Round, Rounds
from appliance.control.steps import STEPS, SYSTEM, Ground, is_waiting
from appliance.core.digests import Digest
from appliance.core.errors import ConflictError, EspalierError, UnavailableError, UsageError
from policies.lifecycle import State

_IDLE_S = 0.2
_RETRY_S = 1.0
_MAX_TRIES = 20

log = logging.getLogger(__name__)


class Cancelled(ConflictError):
    """The process is stopping; the round goes on when it starts again."""


class Worker:
    """Moves rounds on until told to stop. Runs in the main thread of the control plane."""

    def __init__(self, ground: Ground, stop: threading.Event) -> None:
        self._ground = ground
        self._stop = stop
        self._rounds = Rounds(ground.database)
        self._owner = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._renewed = 0.0
        self._told = ""

    def run(self) -> None:
        """Until `stop` is set."""
        tries = 0
        while not self._stop.is_set():
            moved = False
            try:
                self._start_when_due()
                if (open_round := self._rounds.under_way()) is not None:
                    moved = self._step(open_round)
                tries = 0
            except Cancelled:
                return
            except ConflictError as error:
                log.warning("%s", error)
            except UnavailableError as error:
                tries += 1
                log.warning("try %d of %d: %s", tries, _MAX_TRIES, error)
                if tries >= _MAX_TRIES:
                    self._fail(error)
                    tries = 0
                self._stop.wait(_RETRY_S)
            except EspalierError as error:
                self._fail(error)
            if not moved:
                self._stop.wait(_IDLE_S)

    def _step(self, open_round: Round) -> bool:
        # Meanwhile nothing is written: whatever is kept by the database's version stays.
        if is_waiting(self._ground, open_round):
            return False
        if open_round.state is State.TRAINING and waits(self._ground.settings.gpu):
            return False
        round_ = self._rounds.lease(open_round.round, owner=self._owner, at=time.time())
        if round_ is None:
            return False
        self._renewed = time.monotonic()
        following = STEPS[round_.state](self._ground, round_, lambda: self._hold(round_))
        if following is None:
            return False
        self._rounds.advance(
            round_,
            following.state,
            actor=SYSTEM,
            at=time.time(),
            reason=following.reason,
            **(following.made or {}),
        )
        if dataset := (following.made or {}).get("dataset"):
            # What a review shows of it is counted now, so that nobody waits for it then.
            data.warm(self._ground, round_.round, dataset)
        return True

    def _hold(self, round_: Round) -> None:
        """Keep the lease while a step waits for its program."""
        if self._stop.is_set():
            raise Cancelled(f"round {round_.round}: stopping")
        if time.monotonic() - self._renewed > LEASE_S / 3:
            self._rounds.renew(round_, at=time.time())
            self._renewed = time.monotonic()

    def _fail(self, error: EspalierError) -> None:
        open_round = self._rounds.under_way()
        if open_round is None:
            log.error("%s", error)
            self._stop.wait(_RETRY_S)
            return
        round_ = self._rounds.lease(open_round.round, owner=self._owner, at=time.time())
        if round_ is not None:
            self._rounds.advance(
                round_, State.FAILED, actor=SYSTEM, at=time.time(), reason=error.message
            )

    def _start_when_due(self) -> None:
        """A schedule that cannot be followed is said in the log; people's rounds go on."""
        try:
            self._follow_schedule()
        except (ConflictError, UnavailableError):
            raise
        except EspalierError as error:
            if str(error) != self._told:
                log.error("the schedule starts no round: %s", error)
                self._told = str(error)

    def _follow_schedule(self) -> None:
        articles = law.in_force(self._ground.database)
        schedule = next((e for e in articles if e.kind == "schedule"), None)
        if schedule is None:
            return
        minutes = law.minutes_between_rounds(self._ground.store.get(schedule.object))
        newest = self._rounds.some(limit=1)
        last = newest[0].created_at if newest else schedule.at
        if minutes is None or time.time() - last < minutes * 60:
            return
        if self._rounds.under_way():
            return
        start_round(self._ground, starter=None, trajectories="new", idle_s=None)


def start_round(
    ground: Ground, *, starter: str | None, trajectories: str, idle_s: float | None
) -> Round:
    """Seal the law in force and start a round. `starter` None is the schedule.

    Raises:
        UsageError: the law lacks a recipe, gates, or any suite: nothing could be judged by it.
        ConflictError: a round is already under way.
    """
    if idle_s is None:
        idle_s = ground.settings.assembly.idle_s
    # Before the law is read: what somebody changes after this counts for the next round.
    at = time.time()
    order, authors = seal_law(ground, trajectories=trajectories, idle_s=idle_s)
    authors |= {starter} if starter else set()
    return Rounds(ground.database).create(
        authors=tuple(sorted(authors)), order=order, actor=starter or SYSTEM, at=at
    )


def seal_law(ground: Ground, *, trajectories: str, idle_s: float) -> tuple[Order, set[str]]:
    """What a round is to be made and judged by, and who wrote it: the law in force just now.

    Raises:
        UsageError: the law lacks a recipe, gates, or any suite: nothing could be judged by it.
    """
    articles, authors = law.in_force_and_authors(ground.database)
    suites = {e.name: e.object for e in articles if e.kind == "suite"}
    if not suites:
        raise UsageError("no suite is in force", next_step="espalier law set suite FILE")
    order = Order(
        recipe=_only(articles, "recipe"),
        gates=_only(articles, "gates"),
        suites=suites,
        trajectories=trajectories,
        idle_s=idle_s,
    )
    return order, authors


def _only(articles: list[law.Entry], kind: str) -> Digest:
    found = [e.object for e in articles if e.kind == kind]
    if len(found) != 1:
        raise UsageError(
            f"a round needs one {kind}, {len(found)} are in force",
            next_step=f"espalier law set {kind} FILE, or espalier law repeal {kind} NAME",
        )
    return found[0]
