"""What is reported back of a piece of work. Rules only; fleet.py does the posting.

A report goes to ``POST /v1/feedback``: one outcome for the session, one for each answer, and now
and then a correction, as from a person who looked.
"""

import random
from collections.abc import Iterable, Sequence

import msgspec

from appliance.agent.loop import Work, outcome_of
from appliance.core.records import Json, Outcome


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one trajectory when it is over."""

    session: str
    tags: dict[str, str]
    outcome: Outcome
    by_turn: tuple[tuple[str, Outcome], ...]
    """(turn id, outcome) of each answer, in order."""
    correction: str | None = None

    def posts(self) -> list[Json]:
        """The bodies to send, the session's outcome first."""
        posts: list[Json] = [self._outcome({"session": self.session}, self.outcome)]
        posts += [self._outcome({"turn_id": turn}, outcome) for turn, outcome in self.by_turn]
        if self.correction is not None and self.by_turn:
            # The first answer: its prompt is the task alone, without the failed attempts.
            target = {"turn_id": self.by_turn[0][0]}
            posts.append(
                {
                    "target": target,
                    "kind": "correction",
                    "source": "human",
                    "correction": self.correction,
                    "tags": self.tags,
                }
            )
        return posts

    def _outcome(self, target: Json, outcome: Outcome) -> Json:
        return {
            "target": target,
            "kind": "outcome",
            "source": "code",
            "outcome": outcome,
            "tags": self.tags,
        }


def report(work: Work, *, session: str, tags: dict[str, str], correction: str | None) -> Report:
    """The true report. Only failed work is corrected."""
    return Report(
        session=session,
        tags=tags,
        outcome=work.outcome,
        by_turn=tuple((a.turn_id, outcome_of(a.verdict)) for a in work.attempts),
        correction=correction if work.outcome == "failed" else None,
    )


def flipped(report: Report) -> Report:
    """The opposite of what is true, and no correction: a poison, to see whether it is refused."""
    return msgspec.structs.replace(
        report,
        outcome=_OPPOSITE[report.outcome],
        by_turn=tuple((turn, _OPPOSITE[outcome]) for turn, outcome in report.by_turn),
        correction=None,
    )


def shuffled(reports: Sequence[Report], seed: int) -> list[Report]:
    """A control: the outcomes permuted over all trajectories, and no corrections.

    Every answer of a trajectory gets its new outcome. Work ends at the first right answer, so last
    answers are right more often than others: to speak of them alone would let the truth through.
    """
    outcomes = [report.outcome for report in reports]
    random.Random(seed).shuffle(outcomes)  # noqa: S311 - a control, not a secret
    return [
        msgspec.structs.replace(
            report,
            outcome=outcome,
            by_turn=tuple((turn, outcome) for turn, _ in report.by_turn),
            correction=None,
        )
        for report, outcome in zip(reports, outcomes, strict=True)
    ]


def count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many of each."""
    seen = list(outcomes)
    return {outcome: seen.count(outcome) for outcome in ("ok", "failed", "unknown")}


_OPPOSITE: dict[Outcome, Outcome] = {"ok": "failed", "failed": "ok", "unknown": "unknown"}
