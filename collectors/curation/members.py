"""What each dataset looked at, row by row: lineage from a trajectory to what it touched, and back.

The dataset itself is the record; these rows say the same, for questions that must not read it all.
"""

import logging
from collections import Counter
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.records import Dataset, decode
from appliance.core.tables import dataset_members, datasets

_log = logging.getLogger("espalier.collectors")

# Made once: building a statement takes longer than running it.
_PUT = insert(dataset_members).on_conflict_do_nothing()
_NOT_YET = sa.select(datasets.c.digest, datasets.c.object).where(
    ~sa.exists().where(dataset_members.c.dataset == datasets.c.digest)
)


def put_members(connection: sa.Connection, digest: Digest, dataset: Dataset) -> None:
    """Write the rows of a dataset, in the transaction that records it."""
    examples = Counter(one.trajectory_id for one in dataset.examples)
    corrections = Counter(one.trajectory_id for one in dataset.examples if one.kind == "correction")
    reasons: dict[str, set[str]] = {}
    for one in dataset.exclusions:
        # Its trajectory's id, with the turn's index where it is one turn.
        reasons.setdefault(one.subject.partition("#")[0], set()).add(one.reason)
    rows = [
        {
            "dataset": digest,
            "trajectory_id": name,
            "version": version,
            "num_examples": examples[name],
            "num_corrections": corrections[name],
            "excluded": ", ".join(sorted(reasons.get(name, ()))),
        }
        for name, version in dataset.trajectories
    ]
    if rows:
        connection.execute(_PUT, rows)


def mend_members(database: Database, objects: ObjectStore) -> Iterator[int]:
    """Do it for datasets recorded before there were such rows: one at each step, and its size."""
    with database.read() as connection:
        missing = connection.execute(_NOT_YET).all()
    for row in missing:
        try:
            dataset = decode(objects.get(Digest(row.object)), Dataset)
        except (IntegrityError, NotFoundError) as error:
            _log.error("dataset %s cannot be read: %s", row.digest, error)
            continue
        with database.write() as connection:
            put_members(connection, Digest(row.digest), dataset)
        yield len(dataset.trajectories)
