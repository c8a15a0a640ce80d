"""The candidate of a round, and who may look at what it was made of and what it wrote."""

import time
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import ForbiddenError, NotFoundError, RecordError
from appliance.core.objects import ObjectStore
from appliance.core.records import Scorecard, decode
from appliance.core.tables import adapters
from policies.access import Act
from policies.labels import LEVELS

_HIGHEST = LEVELS[-1]
_TRUSTED_S = 600


class DatasetHead(msgspec.Struct, frozen=True):
    """What a dataset says of itself, without its many examples and exclusions."""

    base: Digest
    recipe: Digest
    label: str
    counts: dict[str, int]


def dataset_head(ground: Ground, digest: Digest) -> DatasetHead:
    """The head of a dataset, its bytes verified.

    Raises:
        NotFoundError: it is gone.
        IntegrityError: it is damaged on disk.
        RecordError: it is no dataset.
    """
    return _head(ground.store, digest, ground.store.stamp(digest), int(time.time() // _TRUSTED_S))


@lru_cache(64)
def _head(store: ObjectStore, digest: Digest, stamp: object, period: int) -> DatasetHead:
    del stamp, period  # they are the key: a dataset may be long, and is read again when it changes
    data = store.get(digest)
    try:
        return msgspec.json.decode(data, type=DatasetHead)
    except msgspec.DecodeError as error:
        raise RecordError(f"not a Dataset: {error}") from error


def require_intact(ground: Ground, digest: Digest) -> None:
    """Raise unless an object is what its digest says.

    A file that has not changed since is read again after ten minutes.

    Raises:
        NotFoundError: it is gone.
        IntegrityError: it is damaged on disk.
    """
    _verify(ground.store, digest, ground.store.stamp(digest), int(time.time() // _TRUSTED_S))


@lru_cache(1024)
def _verify(store: ObjectStore, digest: Digest, stamp: object, period: int) -> None:
    del stamp, period
    store.get(digest)


def row_of(ground: Ground, content: Digest | None) -> Any | None:
    """The adapter's row in the database: number, label, record, created_at."""
    with ground.database.read() as connection:
        return connection.execute(sa.select(adapters).where(adapters.c.content == content)).first()


def label_of(ground: Ground, round_: Round) -> str:
    """The label of all that the candidate was made of.

    Before there is an adapter it is its dataset's. Before there is a dataset nothing is known, and
    so the highest level.
    """
    if row := row_of(ground, round_.adapter):
        return str(row.label)
    if round_.dataset is None:
        return _HIGHEST
    return dataset_head(ground, round_.dataset).label


def sees(ground: Ground, person: Person, round_: Round) -> bool:
    """Whether this person may see what the candidate learnt from and what it wrote."""
    return person.sees(label_of(ground, round_))


def require_sight(ground: Ground, person: Person, round_: Round) -> None:
    """Raise unless this person may see what the candidate learnt from and what it wrote.

    Raises:
        ForbiddenError: their label is too low.
    """
    label = label_of(ground, round_)
    if not person.sees(label):
        raise ForbiddenError(
            f"round {round_.round} is labelled {label}, and you may see {person.label}",
            next_step=f"ask an admin for the label {label}, or somebody who has it to look",
        )


def of(ground: Ground, person: Person, number: int) -> Round:
    """A round whose candidate this person may look into.

    Raises:
        NotFoundError: there is no such round.
        ForbiddenError: the person's role, token or label does not allow it.
    """
    person.require(Act.VIEW)
    round_ = Rounds(ground.database).get(number)
    require_sight(ground, person, round_)
    return round_


def scorecard_of(ground: Ground, round_: Round) -> Scorecard:
    """What evaluation found.

    Raises:
        NotFoundError: the round has not come so far.
        IntegrityError: the scorecard is damaged on disk.
    """
    if round_.scorecard is None:
        raise NotFoundError(
            f"round {round_.round} has no scorecard: it is {round_.state}",
            next_step="the round's page says how far it is",
        )
    return decode(ground.store.get(round_.scorecard), Scorecard)
