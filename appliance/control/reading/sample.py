"""One sample of a review: the prompt, both answers and what differs; or both without their names.

Only for people who may see the candidate's label.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

import msgspec

from appliance.control.identity import Person
from appliance.control.reading import blinding, candidate, marks
from appliance.control.reading.differences import (
    CallDifference,
    Difference,
    call_differences,
    text_difference,
    tool_calls,
)
from appliance.control.reading.marks import Comment, Mark
from appliance.control.reading.sample_index import Filters, Index, Sample
from appliance.control.reading.sample_texts import (
    Answer,
    Asked,
    Message,
    Reader,
    Text,
    cut,
    shown,
)
from appliance.control.reading.samples import index_of, ticked
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError

ALL = Filters()


class Neighbour(msgspec.Struct, frozen=True):
    """Another sample in the filtered order."""

    suite: str
    item_id: str


class One(msgspec.Struct, frozen=True, kw_only=True):
    """A sample, with both answers."""

    suite: str
    item_id: str
    family: str
    language: str
    change: str
    by: float
    scored: bool
    """Nothing was asked: a given answer was scored, by likelihood."""
    asked: Asked
    champion: Answer
    candidate: Answer
    difference: Difference
    calls: list[CallDifference]
    mark: Mark
    votes: dict[str, int]
    comments: list[Comment]
    previous: Neighbour | None
    next: Neighbour | None
    place: int | None
    """Its number in the filtered order, from 1; None where the filters leave it out."""
    total: int


class Blind(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers without their names. What they are is told once there is a vote."""

    suite: str
    item_id: str
    prompt: list[Message]
    left: Text
    right: Text
    vote: str | None
    left_is: Literal["champion", "candidate"] | None
    outcomes: dict[str, str]
    """Side → outcome; empty before the vote."""
    previous: Neighbour | None
    next: Neighbour | None


def one(
    ground: Ground,
    person: Person,
    number: int,
    suite: str,
    item_id: str,
    filters: Filters = ALL,
) -> One:
    """One sample with both answers, what differs, and its neighbours in the filtered order.

    Raises:
        NotFoundError: no such round or sample.
        ForbiddenError: the candidate's label is above what the person may see.
        IntegrityError: an object is damaged on disk.
    """
    round_ = candidate.of(ground, person, number)
    index, card = index_of(ground, round_)
    rank = index.rank(suite, item_id)
    sample, key = index.samples[rank], (suite, item_id)
    reader = Reader(ground.store, index)
    before, after = reader.answer(sample.champion), reader.answer(sample.candidate)
    calls = call_differences(tool_calls(before.text), tool_calls(after.text))
    found = _filtered(ground, index, card, person, filters)
    at = bisect_left(found, rank)
    is_among = at < len(found) and found[at] == rank
    with ground.database.read() as connection:
        mark = marks.of_person(connection, card, person.name, [key]).get(key, marks.NONE)
        votes = marks.votes(connection, card, key)
        said = marks.comments_on(connection, number, key)
    previous, following = _neighbours(index, found, rank)
    return One(
        suite=suite,
        item_id=item_id,
        family=sample.family,
        language=sample.language,
        change=sample.change,
        by=sample.by,
        scored=_is_scored(sample),
        asked=reader.asked(sample),
        champion=shown(before),
        candidate=shown(after),
        difference=text_difference(before.text, after.text),
        calls=calls,
        mark=mark,
        votes=votes,
        comments=said,
        previous=previous,
        next=following,
        place=at + 1 if is_among else None,
        total=len(found),
    )


def blind(
    ground: Ground,
    person: Person,
    number: int,
    suite: str,
    item_id: str,
    filters: Filters = ALL,
) -> Blind:
    """The sample without saying which side is which, until the person has voted on it.

    Raises:
        NotFoundError: no such round or sample, or nothing was written, only scored.
        ForbiddenError: the candidate's label is above what the person may see.
        IntegrityError: an object is damaged on disk.
    """
    round_ = candidate.of(ground, person, number)
    index, card = index_of(ground, round_)
    rank = index.rank(suite, item_id)
    sample, key = index.samples[rank], (suite, item_id)
    if _is_scored(sample):
        raise NotFoundError(
            f"{item_id[:80]!r} was scored by likelihood: there are no two answers to compare",
            next_step="open it as a sample",
        )
    order = blinding.order(ground.home, person, card, suite, item_id)
    sides = {"champion": sample.champion, "candidate": sample.candidate}
    reader = Reader(ground.store, index)
    left, right = (cut(reader.answer(sides[name]).text) for name in order)
    with ground.database.read() as connection:
        vote = marks.of_person(connection, card, person.name, [key]).get(key, marks.NONE).vote
    found = _filtered(ground, index, card, person, filters)
    previous, following = _neighbours(index, found, rank)
    return Blind(
        suite=suite,
        item_id=item_id,
        prompt=reader.asked(sample).prompt,
        left=left,
        right=right,
        vote=vote,
        left_is=order[0] if vote else None,  # type: ignore[arg-type]
        outcomes={name: side.outcome for name, side in sides.items()} if vote else {},
        previous=previous,
        next=following,
    )


def whole_text(
    ground: Ground, person: Person, number: int, suite: str, item_id: str, part: str
) -> str:
    """The whole of what a sample shows cut: ``champion``, ``candidate``, or ``asked`` (JSON).

    Raises:
        NotFoundError: no such round, sample or part.
        ForbiddenError: the candidate's label is above what the person may see.
        IntegrityError: an object is damaged on disk.
    """
    round_ = candidate.of(ground, person, number)
    index, _ = index_of(ground, round_)
    sample = index.samples[index.rank(suite, item_id)]
    reader = Reader(ground.store, index)
    if part == "asked":
        item = reader.item(sample)
        return json.dumps(item, ensure_ascii=False, indent=1) if item else ""
    sides = {"champion": sample.champion, "candidate": sample.candidate}
    if part not in sides:
        raise NotFoundError(f"a sample has champion, candidate and asked, not {part[:40]!r}")
    return reader.answer(sides[part]).text


def _filtered(
    ground: Ground, index: Index, card: Digest, person: Person, filters: Filters
) -> list[int]:
    found = index.find(filters)[0]
    if not filters.viewed:
        return found
    with ground.database.read() as connection:
        seen = marks.viewed_by(connection, card, person.name)
    return ticked(index, found, seen, wanted=filters.viewed == "yes")


def _neighbours(
    index: Index, found: Sequence[int], rank: int
) -> tuple[Neighbour | None, Neighbour | None]:
    """Before and after; also of a sample that the filters leave out (it was ticked just now)."""
    before, after = bisect_left(found, rank) - 1, bisect_right(found, rank)
    return (
        _neighbour(index, found[before]) if before >= 0 else None,
        _neighbour(index, found[after]) if after < len(found) else None,
    )


def _neighbour(index: Index, rank: int) -> Neighbour:
    return Neighbour(index.samples[rank].suite, index.samples[rank].item_id)


def _is_scored(sample: Sample) -> bool:
    return sample.champion.logprob is not None or sample.candidate.logprob is not None
