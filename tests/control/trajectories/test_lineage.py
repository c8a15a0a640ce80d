"""From a trajectory to every adapter that it touched, and back."""

import json
from typing import Any

import pytest
import sqlalchemy as sa

from appliance.control.reading import adapter_lineage, lineage
from appliance.control.steps import Ground
from appliance.core.errors import NotFoundError
from appliance.core.records import Target
from appliance.core.tables import adapters, releases
from tests.collectors.desk import Desk
from tests.control.trajectories.work import CLEARED, VIEWER, id_of, say


def grown(ground: Ground, name: str, dataset: str, parent: str | None = None, **other: Any) -> str:
    """An adapter in the table, as training would register it."""
    content = "sha256:" + name * 64
    record = {
        "schema": "adapter/1", "content": content, "base": "sha256:" + "b" * 64, "parent": parent,
        "dataset": dataset, "recipe": "sha256:" + "c" * 64, "rank": 8, "alpha": 16,
        "target_modules": ["q_proj"], "seed": 0, "num_threads": 1, "versions": {},
        "probe": "sha256:" + "d" * 64, "metrics": {"loss": 1.0},
    }  # fmt: skip
    row = {
        "content": content, "number": int(name, 16), "base": record["base"], "parent": parent,
        "dataset": dataset, "label": "internal", "record": json.dumps(record), "created_at": 1.0,
    }  # fmt: skip
    with ground.database.write() as connection:
        connection.execute(sa.insert(adapters).values(row | other))
    return content


def test_lineage_both_ways(ground: Ground, desk: Desk) -> None:
    desk.gold("taught", [5, 2], session="taught")
    desk.say(Target(session="taught"), "ok")
    say(desk, "unknown")
    made, _ = desk.curate()
    elsewhere, _ = desk.curate(since=9e9)
    first = grown(ground, "1", made.dataset)
    second = grown(ground, "2", elsewhere.dataset, first)
    third = grown(ground, "3", elsewhere.dataset, second, label="secret")
    unrelated = grown(ground, "4", elsewhere.dataset)
    release = {"alias": "m", "generation": 1, "adapter": second, "reason": "release"}
    with ground.database.write() as connection:
        connection.execute(sa.insert(releases).values(**release, record="{}", at=7.0))
    taught, unknown = id_of(ground, "taught"), id_of(ground, "unknown")

    found = lineage.of_trajectory(ground, VIEWER, taught)
    assert [(d.dataset, d.num_examples, d.excluded) for d in found.datasets] == [
        (made.dataset, 1, "")
    ]
    assert [(a.adapter, a.steps) for a in found.adapters] == [(first, 0), (second, 1)]
    assert [s.at for s in found.adapters[1].served] == [7.0]
    assert (found.num_adapters, found.num_hidden) == (3, 1)
    seen = {a.adapter for a in lineage.of_trajectory(ground, CLEARED, taught).adapters}
    assert third in seen
    assert unrelated not in seen
    left = lineage.of_trajectory(ground, VIEWER, unknown)
    assert [(d.num_examples, d.excluded) for d in left.datasets] == [(0, "unknown_outcome")]
    assert left.adapters == ()

    back = adapter_lineage.of_adapter(ground, CLEARED, third)
    assert [kin.adapter for kin in back.parents] == [second, first]
    root = adapter_lineage.of_adapter(ground, VIEWER, first.removeprefix("sha256:"))
    assert {m.trajectory_id for m in root.trajectories} == {taught, unknown}
    assert (root.counts.trajectories, root.counts.used, root.counts.examples) == (2, 1, 1)
    assert root.counts.excluded == {"unknown_outcome": 1}
    assert [kin.adapter for kin in root.children] == [second]
    for hidden in (third, "sha256:" + "0" * 64, "x"):
        with pytest.raises(NotFoundError, match=r"^no adapter"):
            adapter_lineage.of_adapter(ground, VIEWER, hidden)


def test_an_adapters_trajectories_are_paged_and_only_those_that_one_may_see(
    ground: Ground,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_lineage, "PAGE", 2)
    for number in range(5):
        say(desk, f"n{number}", label="secret" if number == 3 else "internal")
    made, _ = desk.curate()
    adapter = grown(ground, "1", made.dataset)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = adapter_lineage.of_adapter(ground, VIEWER, adapter, after)
        found += [member.trajectory_id for member in page.trajectories]
        after = page.after
    visible_ids = {id_of(ground, f"n{number}") for number in (0, 1, 2, 4)}
    assert sorted(found) == sorted(visible_ids)
