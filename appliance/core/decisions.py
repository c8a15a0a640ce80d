"""What people decided, and what an alias means since: the records behind every change of weights.

Records like those in records.py, encoded and decoded there. No I/O here, and no clock.
"""

from typing import Literal

import msgspec

from appliance.core.digests import Digest
from appliance.core.records import Record


class Candidate(Record, frozen=True, kw_only=True):
    """What people sign for. Change any of it, and it is another candidate."""

    adapter: Digest
    scorecard: Digest
    order: Digest | None
    """Of what the round was asked to do: the recipe, gates and suites that it was judged by."""


class Approval(Record, frozen=True, kw_only=True):
    """A signed-in person's decision about exactly one candidate.

    Version 1 had no `order`, and knew no ``request_changes``.
    """

    schema: Literal["approval/1", "approval/2"] = "approval/2"
    round: int
    adapter: Digest
    scorecard: Digest
    order: Digest | msgspec.UnsetType = msgspec.UNSET
    """Digest of the round's order: the recipe, gates and suites that it was judged by."""
    approver: str
    decision: Literal["approve", "request_changes", "reject"]
    comment: str
    at: float

    @property
    def candidate(self) -> Candidate:
        """What it is about."""
        order = None if isinstance(self.order, msgspec.UnsetType) else self.order
        return Candidate(adapter=self.adapter, scorecard=self.scorecard, order=order)


class Rollout(Record, frozen=True, kw_only=True):
    """A candidate that is being tried out beside the version that the alias means."""

    candidate: Digest
    share: int
    """Percent of the sessions that it answers; 0 is a shadow, whose answers nobody sees."""
    salt: str
    """Of this rollout alone. A session's bucket is HMAC-SHA256(salt, session) modulo 10,000."""


class Release(Record, frozen=True, kw_only=True):
    """What the alias means from here on. One entry of an append-only journal.

    Version 1 knew no rollouts.
    """

    schema: Literal["release/1", "release/2"] = "release/2"
    alias: str
    generation: int
    adapter: Digest | None
    """None is the base: nothing approved yet, or the kill switch."""
    previous: Digest | None
    reason: Literal["start", "shadow", "canary", "release", "stop", "rollback", "kill"]
    """``shadow`` and ``canary`` try a candidate out, ``stop`` takes it away; `adapter` stays."""
    approvals: tuple[Digest, ...]
    actor: str
    at: float
    rollout: Rollout | msgspec.UnsetType = msgspec.UNSET
    """What is tried out from here on, if anything is."""

    @property
    def trying(self) -> Rollout | None:
        """The rollout that is under way."""
        return None if isinstance(self.rollout, msgspec.UnsetType) else self.rollout


MOVES = ("start", "release", "rollback", "kill")
"""The reasons of a `Release` that say anew what the alias means."""
