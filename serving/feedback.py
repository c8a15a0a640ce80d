"""``POST /v1/feedback``: a signal about a turn, a trajectory, a session or something outside.

Agents send it to the public route, under their key. People's comes from the control plane, on the
private route (admin.py), which says who they are.
"""

import secrets
import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.core.records import Feedback, Outcome, Source, Target
from serving.openai_errors import ApiError

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class FeedbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body. `kind` may be left out where the other fields say it."""

    target: Target
    kind: Literal["outcome", "correction", "comment"] | None = None
    source: Source = "code"
    outcome: Outcome | None = None
    correction: str | None = None
    comment: str | None = None
    tags: dict[str, str] = {}
    feedback_id: Name | None = None
    """The same id again is the same feedback: safe to send twice."""


class PersonsFeedback(FeedbackRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of the private route: a feedback, and who gives it, as ``person:NAME``."""

    actor: Annotated[str, Meta(pattern="^person:.", max_length=256)]
    """Never a key's id: what a key said, only that key can say."""


_decoder = msgspec.json.Decoder(FeedbackRequest)


def parse_feedback(body: bytes, actor: str) -> Feedback:
    """The feedback that a request under this actor's key is.

    Raises:
        ApiError: 400; malformed, without exactly one target, or without what its kind needs.
    """
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"not a feedback: {error}") from error
    return make_feedback(request, actor)


def make_feedback(request: FeedbackRequest, actor: str) -> Feedback:
    """What `actor` says now.

    Raises:
        ApiError: 400; without exactly one target, or without what its kind needs.
    """
    kind = request.kind or _kind_of(request)
    if getattr(request, kind) in (None, ""):
        raise ApiError(400, f"a feedback of kind {kind!r} needs {kind!r}", param=kind)
    named = [name for name in msgspec.structs.astuple(request.target) if name]
    if len(named) != 1 or len(named[0]) > 256:
        raise ApiError(
            400,
            "target must name exactly one of turn_id, trajectory_id, session and reference, "
            "of at most 256 characters",
            param="target",
        )
    return Feedback(
        feedback_id=request.feedback_id or f"fb-{secrets.token_hex(14)}",
        target=request.target,
        kind=kind,
        source=request.source,
        actor=actor,
        outcome=request.outcome or "unknown",
        correction=request.correction,
        comment=request.comment,
        tags=request.tags,
        at=time.time(),
    )


def _kind_of(request: FeedbackRequest) -> Literal["outcome", "correction", "comment"]:
    if request.correction is not None:
        return "correction"
    return "outcome" if request.outcome is not None else "comment"
