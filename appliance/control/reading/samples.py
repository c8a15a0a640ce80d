"""The samples of a review, listed: what got worse first.

Only for people who may see the candidate's label. Texts are read from disk for the one page.
What is not here: one sample with both answers, see sample.py.
"""

from collections.abc import Iterable

import msgspec

from appliance.control.identity import Person
from appliance.control.reading import candidate, marks
from appliance.control.reading.marks import Mark
from appliance.control.reading.sample_index import (
    Facets,
    Filters,
    Index,
    Sample,
    Shelf,
    page_of,
)
from appliance.control.reading.sample_texts import Glance, Reader
from appliance.control.rounds import Round
from appliance.control.steps import Ground
from appliance.core.digests import Digest

PAGE = 25

_shelf = Shelf()


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A sample in the list; texts are cut to a line."""

    suite: str
    item_id: str
    family: str
    language: str
    change: str
    by: float
    prompt: str
    champion: Glance
    candidate: Glance
    mark: Mark


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Up to `PAGE` samples from `position` on, and how many there are of what."""

    rows: list[Row]
    position: int
    total: int
    """What the filters leave."""
    all: int
    counts: Facets
    viewed: int
    """Samples that this person has ticked."""
    votes: dict[str, int]


def index_of(ground: Ground, round_: Round) -> tuple[Index, Digest]:
    """The index of the round's scorecard, and the scorecard.

    Raises:
        NotFoundError: there is no scorecard yet, or its answers are gone.
        IntegrityError: what it names is damaged on disk.
    """
    scorecard = candidate.scorecard_of(ground, round_)
    assert round_.scorecard is not None  # noqa: S101 # it has just been read
    return _shelf.get(ground.store, round_.scorecard, scorecard), round_.scorecard


def find(ground: Ground, person: Person, number: int, filters: Filters, position: int = 0) -> Page:
    """A page of the samples that the filters leave.

    Raises:
        NotFoundError: no such round, or it has no scorecard yet.
        ForbiddenError: the candidate's label is above what the person may see.
        IntegrityError: an object is damaged on disk.
    """
    round_ = candidate.of(ground, person, number)
    index, card = index_of(ground, round_)
    found, counts = index.find(filters)
    with ground.database.read() as connection:
        if filters.viewed:
            seen = marks.viewed_by(connection, card, person.name)
            found = ticked(index, found, seen, wanted=filters.viewed == "yes")
        position = max(0, min(position, max(len(found) - 1, 0) // PAGE * PAGE))
        shown = [index.samples[rank] for rank in page_of(found, position, PAGE)]
        keys = [(one.suite, one.item_id) for one in shown]
        mine = marks.of_person(connection, card, person.name, keys)
        num_ticked, votes = marks.ticks_and_votes(connection, card, person.name)
    reader = Reader(ground.store, index)
    rows = [
        _row(reader, one, mine.get(key, marks.NONE)) for one, key in zip(shown, keys, strict=True)
    ]
    return Page(
        rows=rows,
        position=position,
        total=len(found),
        all=len(index.samples),
        counts=counts,
        viewed=num_ticked,
        votes=votes,
    )


def ticked(index: Index, found: Iterable[int], seen: set[marks.Key], *, wanted: bool) -> list[int]:
    """Those of `found` that are in `seen`, or that are not."""
    samples = index.samples
    return [r for r in found if ((samples[r].suite, samples[r].item_id) in seen) == wanted]


def _row(reader: Reader, sample: Sample, mark: Mark) -> Row:
    return Row(
        suite=sample.suite,
        item_id=sample.item_id,
        family=sample.family,
        language=sample.language,
        change=sample.change,
        by=sample.by,
        prompt=reader.last_words(sample),
        champion=reader.glance(sample.champion),
        candidate=reader.glance(sample.candidate),
        mark=mark,
    )
