"""The head of a review: what would replace what, who made it, how big it is, until when."""

import msgspec

from appliance.control.identity import Person
from appliance.control.reading import candidate, words
from appliance.control.reading.overview import why_not_sign
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground
from appliance.core.adapters import FILES
from appliance.core.digests import Digest, parse_digest
from appliance.core.errors import RecordError
from appliance.core.home import Home
from policies.access import Act
from policies.lifecycle import State


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What stands above every tab."""

    round: Round
    number: int | None
    """The adapter's number."""
    champion_number: int | None
    base: Digest | None
    base_name: str
    """The name that it was registered under; empty where nobody knows."""
    size_bytes: int | None
    label: str
    sees: bool
    """Whether the reader may look into the candidate."""
    expires_at: float | None
    """While it waits for approval: until when."""
    why_not_sign: str


def of(ground: Ground, person: Person, number: int) -> Head:
    """The head of a round's review.

    Raises:
        NotFoundError: no such round.
    """
    person.require(Act.VIEW)
    round_ = Rounds(ground.database).get(number)
    row, champion = (candidate.row_of(ground, one) for one in (round_.adapter, round_.champion))
    label = candidate.label_of(ground, round_)
    waits = round_.state is State.AWAITING_APPROVAL
    return Head(
        round=words.seen(ground, person, round_),
        number=row.number if row else None,
        champion_number=champion.number if champion else None,
        base=row.base if row else None,
        base_name=base_name(ground.home, row.base) if row else "",
        size_bytes=size_of(ground.home, round_.adapter),
        label=label,
        sees=person.sees(label),
        expires_at=round_.changed_at + ground.settings.round.approval_hours * 3600
        if waits
        else None,
        why_not_sign=why_not_sign(ground, person, round_),
    )


def size_of(home: Home, content: Digest | None) -> int | None:
    """Bytes of an adapter's files; None where they are not here."""
    if content is None or not home.adapter(content).is_dir():
        return None
    files = [home.adapter(content) / name for name in FILES]
    return sum(file.stat().st_size for file in files if file.exists())


def base_name(home: Home, base: Digest) -> str:
    """The name of a base, from the registry's own file; empty where it has none."""
    try:
        names = msgspec.json.decode((home.bases / "names.json").read_bytes(), type=dict[str, str])
        digests = {parse_digest(digest): name for name, digest in sorted(names.items())}
    except (OSError, msgspec.DecodeError, RecordError):
        return ""
    return digests.get(base, "")
