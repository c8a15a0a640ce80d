"""Which answers of a trajectory are trained on, and as what: pure rules over its tree.

1. Only the path to the last answer counts; other branches were given up.
2. The last answer is what the trajectory's outcome is about: ok makes it a success, failed a
   failure, unknown nothing.
3. An earlier answer is a success where its own feedback says ok, or, in an imported record that
   turned out well, where nothing says otherwise: the record as a whole is the demonstration.
4. A correction takes the place of the answer that it corrects.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from appliance.core.records import Feedback, Outcome, Trajectory
from collectors.outcomes import verdict

GATEWAY = "gateway"


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to train on."""

    node: int
    kind: Literal["success", "failure", "correction"]
    correction: str = ""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or with node None the whole trajectory, that is not trained on."""

    node: int | None
    reason: str


def choose(
    trajectory: Trajectory, feedback: Sequence[Feedback], *, failures: bool, corrections: bool
) -> tuple[list[Chosen], list[Left]]:
    """What to train on. `failures`: whether the loss can learn from them."""
    path = path_to_last(trajectory)
    last = path[-1]
    chosen: list[Chosen] = []
    left: list[Left] = []
    corrected = _corrections(trajectory, feedback, last) if corrections else {}
    for node, text in sorted(corrected.items()):
        chosen.append(Chosen(node=node, kind="correction", correction=text))
        left.append(Left(node=node, reason="corrected"))
    if trajectory.outcome == "failed":
        if last in corrected:
            return chosen, left
        if failures:
            return [*chosen, Chosen(node=last, kind="failure")], left
        return chosen, [*left, Left(node=None, reason="failure_in_supervised")]
    for node in path:
        if node in corrected:
            continue
        reason = _reason_against(trajectory, feedback, node, last)
        if reason:
            left.append(Left(node=node, reason=reason))
        else:
            chosen.append(Chosen(node=node, kind="success"))
    if not chosen and all(one.reason == "unknown_outcome" for one in left):
        return [], [Left(node=None, reason="unknown_outcome")]
    requests = {trajectory.nodes[node].turn.turn_id for node in path}
    if any(node.turn.turn_id not in requests for node in trajectory.nodes):
        left.append(Left(node=None, reason="other_branch"))
    return chosen, left


def path_to_last(trajectory: Trajectory) -> list[int]:
    """Indices from a root to the answer that was given last."""
    nodes = trajectory.nodes
    current: int | None = max(range(len(nodes)), key=lambda i: (nodes[i].turn.ended_at, i))
    path: list[int] = []
    while current is not None:
        path.append(current)
        current = nodes[current].parent
    return path[::-1]


def _reason_against(
    trajectory: Trajectory, feedback: Sequence[Feedback], node: int, last: int
) -> str:
    turn = trajectory.nodes[node].turn
    own: Outcome | None = verdict(f for f in feedback if f.target.turn_id == turn.turn_id)
    siblings = sum(other.turn.turn_id == turn.turn_id for other in trajectory.nodes)
    outcome: Outcome
    if node == last:
        outcome = trajectory.outcome
    elif own is not None:
        outcome = own
    else:
        outcome = "unknown" if turn.origin == GATEWAY else trajectory.outcome
    if outcome == "failed":
        return "answer_failed"
    if outcome == "unknown":
        return "unknown_outcome"
    # The verdict names a request; which of its choices was meant cannot be told.
    return "several_choices" if siblings > 1 else ""


def _corrections(trajectory: Trajectory, feedback: Sequence[Feedback], last: int) -> dict[int, str]:
    """The latest correction of each answer; of the whole means of the last answer."""
    found: dict[int, str] = {}
    for one in feedback:
        if one.kind != "correction" or not one.correction:
            continue
        if one.target.turn_id is None:
            found[last] = one.correction
            continue
        for index, node in enumerate(trajectory.nodes):
            if node.turn.turn_id == one.target.turn_id:
                found[index] = one.correction
                break
    return found
