"""Who must have said yes before an adapter may be released."""

from collections.abc import Collection, Sequence

from appliance.core.digests import Digest, short
from appliance.core.errors import NotApprovedError, PolicyError
from appliance.core.records import Approval


def require_quorum(
    approvals: Sequence[Approval],
    *,
    adapter: Digest,
    authors: Collection[str],
    needed: int,
    now: float,
    valid_s: float,
) -> None:
    """Raise unless `needed` different people, none of them an author, approved this adapter.

    One person twice counts once. An author's approval counts for nothing, and so does an approval
    of any other digest or one older than `valid_s`. One rejection of this adapter outweighs every
    approval, whoever wrote it and however old it is.

    `authors` are all who made the round what it is: whoever started it and whoever last changed
    its recipe, gates, suites or schedule. `now` is UTC seconds since the epoch.

    Raises:
        PolicyError: `needed` is below 1, or no author is named.
        NotApprovedError: it was rejected, or fewer than `needed` people approved it in time.
    """
    # A quorum of zero would approve everything, so it is an error, not a setting.
    if needed < 1:
        raise PolicyError(f"approval quorum must be at least 1, got {needed}")
    # A round without an author would let its author sign unseen.
    if not authors:
        raise PolicyError("a round must name its author, got none")

    cast = [a for a in approvals if a.adapter == adapter]
    rejected = sorted({a.approver for a in cast if a.decision == "reject"})
    if rejected:
        raise NotApprovedError(f"adapter {short(adapter)} was rejected by {', '.join(rejected)}")

    timely = [a for a in cast if a.decision == "approve" and 0 <= now - a.at <= valid_s]
    by_others = [a for a in timely if a.approver not in authors]
    people = {a.approver for a in by_others}
    if len(people) < needed:
        raise NotApprovedError(
            f"adapter {short(adapter)}: {len(people)} of {needed} approvals"
            + _why_not_counted(len(cast) - len(timely), len(timely) - len(by_others)),
            next_step="another signed-in person, not the round's author, runs: espalier approve",
        )


def _why_not_counted(num_untimely: int, num_by_author: int) -> str:
    left_out = []
    if num_untimely:
        left_out.append(f"{num_untimely} expired")
    if num_by_author:
        left_out.append(f"{num_by_author} by the round's author")
    return f" (not counted: {', '.join(left_out)})" if left_out else ""
