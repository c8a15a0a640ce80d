"""Whether an alias may move now. What makes an adapter fit for it: gates, quorum and the probe."""

from appliance.core.decisions import Release
from appliance.core.digests import Digest, short
from appliance.core.errors import ConflictError, RefusedError


def require_generation(now: Release, expected: int) -> None:
    """Raise unless the alias is still where somebody saw it.

    Raises:
        ConflictError: it has moved since.
    """
    if now.generation != expected:
        raise ConflictError(
            f"{now.alias} is at generation {now.generation}, expected generation {expected}",
            next_step="look at what is served now, then decide again",
        )


def require_nothing_tried(now: Release) -> None:
    """Raise while a candidate is tried out: one at a time.

    Raises:
        ConflictError: one is.
    """
    if now.trying is not None:
        raise ConflictError(
            f"{now.alias} is being moved: adapter {short(now.trying.candidate)} is tried out "
            f"({now.trying.share} % of the sessions)",
            next_step="wait for its end, or take it away with: espalier rollback --reason WHY",
        )


def require_another(now: Release, adapter: Digest) -> None:
    """Raise where the alias means this adapter already: it would stand before itself, and a
    rollback would go back to itself.

    Raises:
        RefusedError: it does.
    """
    if now.adapter == adapter:
        raise RefusedError(
            f"{now.alias} serves adapter {short(adapter)} already",
            next_step="espalier status says what is served, and since when",
        )
