"""Starting, ending and revising rounds."""

import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.control.identity import Person
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground
from appliance.control.worker import seal_law, start_round
from appliance.core.errors import UsageError
from policies.access import Act

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
REASON_MAX = 1000


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order for a round; None is what the settings say."""

    trajectories: Literal["new", "all"] = "new"
    idle_s: Seconds | None = None


class Why(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reason, which goes into the audit log."""

    reason: str = ""

    def require(self) -> str:
        """The reason, in 1 to 1,000 characters.

        Raises:
            UsageError: there is none, or it is longer.
        """
        reason = self.reason.strip()
        if not reason:
            raise UsageError(
                "say why: the reason goes into the audit log", next_step="--reason TEXT"
            )
        if len(reason) > REASON_MAX:
            raise UsageError(f"a reason has at most {REASON_MAX} characters, got {len(reason)}")
        return reason


def start(ground: Ground, person: Person, ask: Start) -> Round:
    """Start a round; its starter is one of its authors.

    Raises:
        UsageError: nothing could be judged by the law in force.
        ConflictError: a round is already under way.
    """
    person.require(Act.START_ROUND)
    return start_round(
        ground, starter=person.name, trajectories=ask.trajectories, idle_s=ask.idle_s
    )


def cancel(ground: Ground, person: Person, number: int, ask: Why) -> Round:
    """End a round before its verdict.

    Raises:
        RefusedError: it is over, or its release is being carried out.
    """
    person.require(Act.CANCEL_ROUND)
    return Rounds(ground.database).cancel(
        number, actor=person.name, at=time.time(), reason=ask.require()
    )


def revise(ground: Ground, person: Person, number: int, ask: Why) -> Round:
    """Make a waiting candidate again under the law now in force; what was signed is dismissed.

    Raises:
        RefusedError: no candidate waits.
        ConflictError: the law has not changed.
    """
    person.require(Act.REVISE_ROUND)
    why = ask.require()
    rounds = Rounds(ground.database)
    before = rounds.get(number).order
    order, authors = seal_law(ground, trajectories=before.trajectories, idle_s=before.idle_s)
    return rounds.revise(
        number, authors=authors, order=order, actor=person.name, at=time.time(), why=why
    )
