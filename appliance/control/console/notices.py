"""One sentence after each act. The address carries a key, never the text: nobody can put words
into our mouth by a link.
"""

import msgspec


class Notice(msgspec.Struct, frozen=True):
    """A sentence, and how it is meant."""

    kind: str
    text: str


_NOTICES = {
    "approve": Notice("ok", "Your approval is recorded."),
    "request_changes": Notice(
        "warn", "Your request for changes is recorded; it holds the release."
    ),
    "reject": Notice("warn", "You rejected the candidate. It will not be released."),
    "started": Notice("ok", "The round has started."),
    "cancelled": Notice("warn", "The round is cancelled."),
    "revised": Notice("ok", "The candidate is made again; earlier decisions are dismissed."),
    "released": Notice("ok", "The alias has moved."),
    "rolled-back": Notice("ok", "Rolled back: new requests get the version before."),
    "killed": Notice("warn", "The base serves alone from now on."),
    "commented": Notice("ok", "Your comment is recorded."),
    "marked": Notice("ok", "Marked."),
    "corrected": Notice("ok", "Your correction is in the log; the next round can learn from it."),
    "feedback": Notice("ok", "Your feedback is in the log."),
    "kept": Notice("ok", "Kept as a test: the next round's scorecard will contain it."),
    "proposed": Notice(
        "warn", "Proposed: an approver has to accept a change of a protected suite."
    ),
    "accepted": Notice("ok", "The change is in force."),
    "declined": Notice("ok", "The change is declined."),
    "law": Notice("ok", "The law has changed. You are an author of the rounds that it governs."),
    "repealed": Notice("ok", "Repealed. You are an author of the rounds that the law governs."),
    "person": Notice("ok", "Done. That person signs in anew."),
    "passphrase": Notice("ok", "Your passphrase is new. Sign in with it."),
    "revoked": Notice("ok", "The token is worthless now."),
    "signed-out": Notice("ok", "You are signed out."),
    "expired": Notice("warn", "Your session has ended. Sign in again."),
}


def notice_of(key: str) -> Notice | None:
    """The notice of a key; None for a key that is none."""
    return _NOTICES.get(key)
