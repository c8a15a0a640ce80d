"""The other tabs of a review: checks, data, provenance, history, and the head above them."""

import time

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control.reading import chain_picture, checks, data, head, history, provenance
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.decisions import Approval, Release
from appliance.core.digests import Digest, digest_bytes, digest_json
from appliance.core.errors import NotFoundError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Dataset, decode, encode
from appliance.core.settings import Settings
from appliance.core.tables import adapters, approvals, releases, rounds
from collectors.curation.members import put_members
from tests.control.reviewing import (
    Asked,
    a_dataset,
    a_round,
    ada,
    an_adapter,
    said,
)


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


def asked(name: str, kind: str, before: int, after: int, num: int = 40) -> Asked:
    made = Asked(name, kind)  # type: ignore[arg-type]
    for i in range(num):
        sides = (said("a", "ok" if i < passed else "failed") for passed in (before, after))
        made.add(f"i{i}", *sides, family=f"family {i % 2}")
    return made


def cast(
    ground: Ground, number: int, name: str, decision: str, *, scorecard: Digest | None = None
) -> Approval:
    with ground.database.write() as connection:
        row = connection.execute(sa.select(rounds).where(rounds.c.round == number)).one()
        made = Approval(
            round=number,
            adapter=row.adapter,
            scorecard=scorecard or row.scorecard,
            order=digest_json(msgspec.json.decode(row.order)),
            approver=name,
            decision=decision,  # type: ignore[arg-type]
            comment="read it",
            at=time.time(),
        )
        connection.execute(
            sa.insert(approvals).values(
                digest=made.digest,
                round=number,
                adapter=made.adapter,
                approver=name,
                record=encode(made).decode(),
            )
        )
    return made


# --- checks ---------------------------------------------------------------------------------


def test_a_pass_says_so_and_each_gate_has_its_numbers(ground: Ground) -> None:
    suites = [asked("job", "target", 5, 35), asked("public", "protected", 40, 40)]
    found = checks.of(ground, ada(), a_round(ground, [*suites, asked("c", "canary", 30, 30)]))
    assert (found.verdict, found.summary) == (
        "pass",
        "All 2 required checks are met; people decide.",
    )
    job = found.checks[0]
    assert (job.gate, job.suite, job.outcome, job.required) == ("it improves", "job", "met", True)
    assert (job.champion, job.candidate, job.delta) == (5 / 40, 35 / 40, 30 / 40)
    assert (job.metric, job.op, job.bound, job.value) == ("lower_95", ">", 0.0, job.lower)
    assert (job.num_items, job.void, job.gained, job.lost) == (40, 0, 30, 0)
    assert {one.family for one in job.families} == {"family 0", "family 1"}
    assert [one.required for one in found.checks] == [True, True, False]


def test_a_refusal_names_the_gate_and_both_rates(ground: Ground) -> None:
    suites = [asked("job", "target", 5, 35), asked("public", "protected", 40, 10)]
    found = checks.of(ground, ada(), a_round(ground, suites, state="refused"))
    assert found.summary == (
        "Refused: 'it keeps' shows harm on public: the candidate passes 25.0% of 40 items, "
        "the champion 100.0%."
    )
    assert found.checks[1].outcome == "harm"


def test_too_little_power_and_a_missing_suite_are_told_apart(ground: Ground) -> None:
    found = checks.of(ground, ada(), a_round(ground, [asked("job", "target", 20, 20)]))
    assert found.verdict == "inconclusive"
    assert found.summary.startswith(
        "Inconclusive: no harm is shown, but 'it improves' is not met on job: lower_95 > 0 does "
        "not hold; the smallest loss it could have seen is"
    )
    missing = next(one for one in found.checks if one.gate == "it keeps")
    assert (missing.suite, missing.num_items, missing.value) == ("protected", None, None)
    assert missing.why == "the scorecard has no such suite, and this gate needs it"


def test_likelihoods_are_means_not_shares(ground: Ground) -> None:
    known = Asked("known", check={"kind": "likelihood", "answer": "x"})
    for i in range(30):
        known.add(f"i{i}", said("", logprob=-2.0), said("", logprob=-1.5))
    (check, *_) = checks.of(ground, ada(), a_round(ground, [known])).checks
    assert (check.unit, check.champion, check.candidate) == ("nats_per_token", -2.0, -1.5)


def test_a_canarys_name_is_data_and_hidden_from_a_lower_label(ground: Ground) -> None:
    suites = [asked("job", "target", 5, 35), asked("canary:please hurry", "canary", 30, 5)]
    number = a_round(ground, suites, label="secret")
    low = checks.of(ground, ada("internal"), number)
    assert low.names_hidden
    assert "hurry" not in msgspec.json.encode(low).decode()
    high = checks.of(ground, ada("secret"), number)
    assert not high.names_hidden
    assert [one.outcome for one in low.checks] == [one.outcome for one in high.checks]


# --- data -----------------------------------------------------------------------------------


def test_data_is_the_same_before_and_after_its_rows_are_written(ground: Ground) -> None:
    number = a_round(ground, [asked("job", "target", 5, 35)])
    before = data.find(ground, ada(), number, data.Filters())
    dataset = decode(ground.store.get(before.dataset), Dataset)
    with ground.database.write() as connection:
        put_members(connection, before.dataset, dataset)
    (ground.home.rounds / str(number) / "data.json").unlink()
    assert data.find(ground, ada(), number, data.Filters()) == before
    assert before.overview.reasons == {"label": 1, "too_long": 1}
    assert before.overview.kinds == {"correction": 1, "success": 2}
    teams = [(one.name, one.trajectories, one.examples) for one in before.overview.teams]
    assert teams == [("airline", 3, 2), ("billing", 2, 1)]
    assert [one.trajectory_id for one in before.members] == [
        "t-0",
        "t-1",
        "t-2",
        "x-long",
        "x-secret",
    ]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"reason": "too_long"}, ["x-long"]),
        ({"reason": "too"}, []),
        ({"team": "billing"}, ["t-1", "x-long"]),
        ({"kind": "corrected"}, ["t-0"]),
        ({"kind": "left_out"}, ["x-long", "x-secret"]),
        ({"label": "secret/finance"}, ["x-secret"]),
        ({"team": "billing", "kind": "taken"}, ["t-1"]),
    ],
)
def test_members_are_filtered(ground: Ground, filters: dict[str, str], ids: list[str]) -> None:
    number = a_round(ground, [asked("job", "target", 5, 35)])
    found = data.find(ground, ada(), number, data.Filters(**filters))
    assert [one.trajectory_id for one in found.members] == ids


def test_members_are_paged_by_50_without_a_gap(ground: Ground, monkeypatch: object) -> None:
    dataset = a_dataset(ground, num=120)
    number = a_round_of(ground, dataset)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = data.find(ground, ada(), number, data.Filters(), after)
        assert 0 < len(page.members) <= 50
        seen += [one.trajectory_id for one in page.members]
        after = page.after
    assert len(seen) == len(set(seen)) == 122


def a_round_of(ground: Ground, dataset: Digest) -> int:
    with ground.database.write() as connection:
        return int(
            connection.execute(
                sa.insert(rounds)
                .values(
                    state="training",
                    reason="",
                    authors='["olga"]',
                    order=msgspec.json.encode(
                        {
                            "recipe": digest_bytes(b"r"),
                            "gates": digest_bytes(b"g"),
                            "suites": {},
                            "idle_s": 0.0,
                        }
                    ).decode(),
                    dataset=dataset,
                    created_at=1.0,
                    changed_at=1.0,
                )
                .returning(rounds.c.round)
            ).scalar_one()
        )


def test_trajectories_above_the_label_are_counted_and_not_listed(ground: Ground) -> None:
    number = a_round(ground, [asked("job", "target", 5, 35)])
    found = data.find(ground, ada("internal"), number, data.Filters())
    assert "x-secret" not in [one.trajectory_id for one in found.members]
    assert found.num_hidden == 1
    low = data.find(ground, ada("public"), number, data.Filters())
    assert (low.members, low.num_hidden) == ([], 5)
    assert (low.overview.tasks, low.overview.agents, low.overview.keys) == ([], [], [])
    assert "task-0" not in msgspec.json.encode(low).decode()


def test_a_round_without_a_dataset_says_so(ground: Ground) -> None:
    number = a_round_of(ground, a_dataset(ground))
    with ground.database.write() as connection:
        connection.execute(sa.update(rounds).values(dataset=None))
    with pytest.raises(NotFoundError, match="no dataset"):
        data.find(ground, ada(), number, data.Filters())


# --- provenance -----------------------------------------------------------------------------


def grown(ground: Ground) -> int:
    """A round whose candidate was grown from an adapter that was grown from another."""
    parent = None
    for generation in range(2):
        seed = f"generation {generation}".encode()
        parent = an_adapter(ground, digest_bytes(seed), parent=parent, weights=seed)
    return a_round(ground, [asked("job", "target", 5, 35)], champion=parent)


def test_the_chain_is_whole_and_says_who_made_the_law(ground: Ground) -> None:
    number = grown(ground)
    approval = cast(ground, number, "bela", "approve")
    entry = Release(
        alias="company-model",
        generation=1,
        adapter=approval.adapter,
        previous=None,
        reason="release",
        approvals=(approval.digest,),
        actor="espalier",
        at=time.time(),
    )
    row = {"alias": entry.alias, "generation": 1, "adapter": entry.adapter, "reason": "release"}
    with ground.database.write() as connection:
        connection.execute(
            sa.insert(releases).values(**row, record=encode(entry).decode(), at=entry.at)
        )
    found = provenance.of(ground, ada(), number)
    assert found.damaged == []
    assert ("trajectories", "5") in found.dataset.facts
    assert [one.state for one in (found.parent, *found.ancestors)] == ["intact", "intact"]
    assert [(one.kind, one.author) for one in found.law] == [
        ("recipe", "olga"),
        ("gates", "olga"),
        ("suite", ""),
    ]
    assert ("by", "bela") in found.approvals[0].facts
    assert found.release.state == "intact"
    assert found.manifest is not None
    assert found.manifest["content"] == found.adapter.digest


def test_a_picture_of_the_chain_has_no_box_upon_another(ground: Ground) -> None:
    number = grown(ground)
    cast(ground, number, "bela", "approve")
    cast(ground, number, "carl", "approve", scorecard=digest_bytes(b"an older one"))
    picture = chain_picture.draw(provenance.of(ground, ada(), number))
    boxes = [(n.x, n.y, n.x + n.width, n.y + n.height) for n in picture.nodes]
    for at, (x, y, right, bottom) in enumerate(boxes):
        assert x >= 0
        assert right <= picture.width <= 400
        assert bottom <= picture.height
        for other in boxes[at + 1 :]:
            assert x >= other[2] or right <= other[0] or y >= other[3] or bottom <= other[1]
    assert len(picture.edges) == len(picture.nodes) - 1
    assert "grown from parent 2 (1 older ancestors)" in picture.words
    assert "1 people approved it; it is not released" in picture.words


def damage_dataset(ground: Ground, number: int) -> None:
    digest = provenance.of(ground, ada(), number).dataset.digest
    assert digest is not None
    path = ground.home.objects / digest[7:9] / digest[9:]
    path.write_bytes(path.read_bytes() + b" ")


def remove_scorecard(ground: Ground, number: int) -> None:
    digest = provenance.of(ground, ada(), number).scorecard.digest
    assert digest is not None
    (ground.home.objects / digest[7:9] / digest[9:]).unlink()


def damage_weights(ground: Ground, number: int) -> None:
    digest = provenance.of(ground, ada(), number).adapter.digest
    assert digest is not None
    (ground.home.adapter(digest) / "adapter_model.safetensors").write_bytes(b"other")


def damage_approval(ground: Ground, number: int) -> None:
    made = cast(ground, number, "bela", "reject")
    turned = msgspec.structs.replace(made, decision="approve")
    with ground.database.write() as connection:
        connection.execute(sa.update(approvals).values(record=encode(turned).decode()))


def remove_gates(ground: Ground, number: int) -> None:
    digest = provenance.of(ground, ada(), number).law[1].digest
    (ground.home.objects / digest[7:9] / digest[9:]).unlink()


@pytest.mark.parametrize(
    ("break_it", "what", "state"),
    [
        (damage_dataset, "dataset", "damaged"),
        (remove_scorecard, "scorecard", "missing"),
        (damage_weights, "candidate", "damaged"),
        (damage_approval, "decision", "damaged"),
        (remove_gates, "gates", "missing"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_a_broken_link_is_shown_as_broken(
    ground: Ground, break_it: object, what: str, state: str
) -> None:
    number = grown(ground)
    break_it(ground, number)  # type: ignore[operator]
    (broken,) = provenance.of(ground, ada(), number).damaged
    named = broken.what if isinstance(broken, provenance.Link) else broken.kind
    assert (named, broken.state) == (what, state)


# --- history and head -----------------------------------------------------------------------


def test_a_decision_about_another_candidate_is_shown_as_dismissed(ground: Ground) -> None:
    number = a_round(ground, [asked("job", "target", 5, 35)])
    cast(ground, number, "bela", "approve", scorecard=digest_bytes(b"an older one"))
    cast(ground, number, "bela", "request_changes")
    cast(ground, number, "bela", "approve")
    found = history.of(ground, ada(), number).decisions
    assert [(one.decision, one.dismissed, one.superseded) for one in found] == [
        ("approve", True, False),
        ("request_changes", False, True),
        ("approve", False, False),
    ]


def test_the_head_says_what_would_replace_what_and_until_when(ground: Ground) -> None:
    number = grown(ground)
    found = head.of(ground, ada("internal"), number)
    assert (found.number, found.champion_number, found.label, found.sees) == (
        3,
        2,
        "internal",
        True,
    )
    files = ground.home.adapter(found.round.adapter or Digest("")).iterdir()
    assert found.size_bytes == sum(file.stat().st_size for file in files)
    assert found.expires_at == found.round.changed_at + 168 * 3600
    with ground.database.write() as connection:
        connection.execute(sa.update(rounds).values(state="released"))
        connection.execute(sa.update(adapters).values(label="secret"))
    later = head.of(ground, ada("internal"), number)
    assert (later.expires_at, later.sees) == (None, False)


def test_the_base_has_the_name_that_it_was_registered_under(ground: Ground) -> None:
    number = a_round(ground, [asked("job", "target", 5, 35)])
    assert head.of(ground, ada(), number).base_name == ""
    (ground.home.bases / "names.json").write_bytes(
        msgspec.json.encode({"tiny": digest_bytes(b"base")})
    )
    assert head.of(ground, ada(), number).base_name == "tiny"
