"""Who must have said yes before an adapter may be released."""

import math
from collections.abc import Collection, Mapping, Sequence

from appliance.core.decisions import Approval, Candidate
from appliance.core.digests import short
from appliance.core.errors import NotApprovedError, PolicyError

LEAST = 2
"""People who sign for a release, at least."""


def require_quorum(
    decisions: Sequence[Approval],
    *,
    candidate: Candidate,
    authors: Collection[str],
    signers: Mapping[str, float],
    needed: int,
    now: float,
    valid_s: float,
) -> None:
    """Raise unless `needed` different people, none of them an author, approved this candidate.

    `decisions` are in the order in which they were made. A candidate is an adapter with its
    scorecard and the law that it was judged by: a decision about another digest, about other
    figures or under another law counts for nothing. Of each person the last decision counts. An
    author's approval counts for nothing, and so does one older than `valid_s`. `signers` are all
    who may approve now, each with the moment since which role, label and passphrase are what they
    are: an approval of anybody else, or from before that moment, counts for nothing, for it may
    have changed because somebody else had the passphrase. One rejection of this adapter outweighs
    every approval, whoever wrote it, however old it is and whatever the figures were; a request
    for changes holds until the same person approves.

    `authors` are all who made the round what it is: whoever started or revised it and whoever last
    changed its recipe, gates, suites or schedule. `now` is UTC seconds since the epoch.

    Raises:
        PolicyError: `needed` is below 2, or no author is named.
        NotApprovedError: it was rejected, changes were requested, or fewer than `needed` people
            approved it in time.
    """
    # A smaller quorum would be one person's word, so it is an error, not a setting.
    if needed < LEAST:
        raise PolicyError(f"approval quorum must be at least {LEAST}, got {needed}")
    # A round without an author would let its author sign unseen.
    if not authors:
        raise PolicyError("a round must name its author, got none")

    adapter = candidate.adapter
    of_adapter = [d for d in decisions if d.adapter == adapter]
    rejected = sorted({d.approver for d in of_adapter if d.decision == "reject"})
    if rejected:
        raise NotApprovedError(f"adapter {short(adapter)} was rejected by {', '.join(rejected)}")

    standing = {d.approver: d for d in of_adapter if d.candidate == candidate}.values()
    wanting = sorted(d.approver for d in standing if d.decision == "request_changes")
    if wanting:
        raise NotApprovedError(
            f"adapter {short(adapter)}: changes were requested by {', '.join(wanting)}",
            next_step="make the candidate again, or let them approve it as it is",
        )
    approved = [d for d in standing if d.decision == "approve"]
    timely = [d for d in approved if 0 <= now - d.at <= valid_s]
    by_signers = [d for d in timely if d.at >= signers.get(d.approver, math.inf)]
    by_others = [d for d in by_signers if d.approver not in authors]
    if len(by_others) < needed:
        left_out = {
            "expired": len(approved) - len(timely),
            "by people who do not sign, or changed since": len(timely) - len(by_signers),
            "by the round's author": len(by_signers) - len(by_others),
        }
        raise NotApprovedError(
            f"adapter {short(adapter)}: {len(by_others)} of {needed} approvals"
            + _why_not_counted(left_out),
            next_step="another signed-in person, not the round's author, runs: espalier approve",
        )


def _why_not_counted(left_out: Mapping[str, int]) -> str:
    why = ", ".join(f"{num} {reason}" for reason, num in left_out.items() if num)
    return f" (not counted: {why})" if why else ""
