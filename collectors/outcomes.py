"""How a piece of work turned out, from the feedback on it: pure rules.

1. What was said of the whole (its session, its trajectory, an outside reference) counts before
   what was said of single answers.
2. A person counts before a program, a program before a model.
3. Of one source, the latest word counts. So two programs that disagree are settled by time, and a
   later "unknown" takes an earlier "ok" back.
4. Where only single answers were judged, the work turned out as its last answer did.
Unknown is never rounded up.
"""

from collections.abc import Iterable, Sequence

from appliance.core.records import Feedback, Outcome, Source

_TRUST: dict[Source, int] = {"model": 0, "code": 1, "human": 2}


def verdict(feedback: Iterable[Feedback]) -> Outcome | None:
    """The outcome that this feedback gives, None where it says nothing of an outcome."""
    said = [f for f in feedback if f.kind == "outcome"]
    last = max(said, key=lambda f: (_TRUST[f.source], f.at, f.feedback_id), default=None)
    return last.outcome if last else None


def outcome_of(feedback: Sequence[Feedback], last_turn_ids: Iterable[str]) -> Outcome:
    """The outcome of a trajectory whose latest answer, perhaps in several choices, is given."""
    whole = verdict(f for f in feedback if f.target.turn_id is None)
    if whole is not None:
        return whole
    last = set(last_turn_ids)
    return verdict(f for f in feedback if f.target.turn_id in last) or "unknown"


def tag_of(feedback: Iterable[Feedback], name: str) -> str | None:
    """The latest value of a tag such as ``task``."""
    said = [f for f in feedback if f.tags.get(name)]
    last = max(said, key=lambda f: (f.at, f.feedback_id), default=None)
    return last.tags[name] if last else None
