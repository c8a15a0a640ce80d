"""Everything that decides a run, read and verified before anything heavy is imported."""

from pathlib import Path

import msgspec
import sqlalchemy as sa

from adapter_training.publishing import read_adapter
from appliance.core.database import Database
from appliance.core.digests import Digest, parse_digest, short
from appliance.core.errors import IntegrityError, RefusedError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.recipe import Recipe
from appliance.core.records import Adapter, Dataset, decode
from appliance.core.tables import adapters, datasets
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template
from policies.labels import join


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of one training run."""

    dataset: Dataset
    recipe: Recipe
    base: Base
    template: Template
    parent: Adapter | None
    parent_folder: Path | None
    label: str
    """Of the adapter: its data's and its parent's, joined."""


def read_sources(
    home: Home, database: Database, *, dataset: Digest, recipe: Recipe, parent: Digest | None
) -> Sources:
    """Read and check the inputs.

    Raises:
        NotFoundError: the dataset, its base or the parent is not here.
        IntegrityError: one of them is not what its digest says.
        RefusedError: the base's template is not the one that the dataset was encoded with, or the
            parent was trained on another base.
    """
    sealed = _read_dataset(home, database, dataset)
    base = Registry(home).get(sealed.base)
    base.verify()
    template = Template.load(base.path)
    if template.digest != sealed.template:
        raise RefusedError(
            f"dataset {short(dataset)} was encoded with template {short(sealed.template)}, "
            f"the base has {short(template.digest)}",
            next_step="curate again for this base",
        )
    record = read_adapter(home, parent, base.digest) if parent else None
    return Sources(
        dataset=sealed,
        recipe=recipe,
        base=base,
        template=template,
        parent=record,
        parent_folder=home.adapter(parent) if parent else None,
        label=_label(database, sealed, parent),
    )


def _read_dataset(home: Home, database: Database, digest: Digest) -> Dataset:
    with database.read() as connection:
        place = connection.scalar(
            sa.select(datasets.c.object).where(datasets.c.digest == parse_digest(digest))
        )
    dataset = decode(ObjectStore(home.objects).get(Digest(place or digest)), Dataset)
    if place and dataset.digest != digest:
        raise IntegrityError(f"the object of dataset {short(digest)} holds {short(dataset.digest)}")
    return dataset


def _label(database: Database, dataset: Dataset, parent: Digest | None) -> str:
    labels = [dataset.label]
    if parent:
        with database.read() as connection:
            known = connection.scalar(
                sa.select(adapters.c.label).where(adapters.c.content == parent)
            )
        # A parent that the database does not list has an unknown label: what it saw, nobody knows.
        if known is None:
            raise RefusedError(
                f"parent {short(parent)} is not listed, so its label is unknown",
                next_step="train without it, or restore its row in the database",
            )
        labels.append(known)
    return join(labels)
