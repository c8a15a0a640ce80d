"""The step that moves the alias, killed after it moved and before the round could say so."""

import time

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control.rounds import Order, Round
from appliance.control.steps import Ground, is_waiting, release
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.decisions import Approval, Release, Rollout
from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import UnavailableError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import encode
from appliance.core.settings import Settings
from appliance.core.tables import approvals, releases, users
from policies.lifecycle import State

ADAPTER = digest_bytes(b"adapter")
SCORECARD = digest_bytes(b"scorecard")
GATES = b"""schema = "gates/1"
name = "g"
[[gate]]
name = "target"
kind = "target"
margin = 0.1
"""


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


def a_round(ground: Ground) -> Round:
    order = Order(
        recipe=digest_bytes(b"recipe"), gates=ground.store.put(GATES), suites={}, idle_s=0.0
    )
    return Round(
        round=1,
        state=State.RELEASING,
        verdict=None,
        reason="",
        authors=("olga",),
        order=order,
        champion=None,
        dataset=digest_bytes(b"dataset"),
        adapter=ADAPTER,
        scorecard=SCORECARD,
        fencing=1,
        created_at=0.0,
        changed_at=0.0,
    )


def approved(ground: Ground, round_: Round) -> tuple[Digest, ...]:
    digests = []
    with ground.database.write() as connection:
        for name in ("bela", "carl"):
            approval = Approval(
                round=round_.round,
                adapter=ADAPTER,
                scorecard=SCORECARD,
                order=round_.order.digest,
                approver=name,
                decision="approve",
                comment="",
                at=time.time(),
            )
            digests.append(approval.digest)
            row = {"digest": approval.digest, "round": round_.round, "adapter": ADAPTER}
            record = {"approver": name, "record": encode(approval).decode()}
            person = {"name": name, "role": "approver", "passphrase_hash": "", "created_at": 0.0}
            connection.execute(sa.insert(users).prefix_with("OR IGNORE").values(person))
            connection.execute(sa.insert(approvals).values({**row, **record}))
    return tuple(digests)


def moved(
    ground: Ground, generation: int, reason: str, cited: tuple[Digest, ...], share: int = 0
) -> None:
    trying = reason in ("shadow", "canary")
    entry = Release(
        alias="company-model",
        generation=generation,
        adapter=ADAPTER if reason == "release" else None,
        previous=None,
        reason=reason,  # type: ignore[arg-type]
        approvals=cited,
        actor="espalier",
        at=0.0,
        rollout=Rollout(candidate=ADAPTER, share=share, salt="s") if trying else msgspec.UNSET,
    )
    row = {"alias": entry.alias, "generation": generation, "adapter": entry.adapter}
    rest = {"reason": reason, "record": encode(entry).decode(), "at": 0.0}
    with ground.database.write() as connection:
        connection.execute(sa.insert(releases).values({**row, **rest}))
        audit.record(
            connection, actor="x", act=f"alias.{reason}", subject="x", at=0.0,
            generation=generation, comment=f"why {generation}",
        )  # fmt: skip


@pytest.mark.parametrize("since", [None, "kill", "rollback"])
def test_an_alias_that_moved_already_does_not_move_again(ground: Ground, since: str | None) -> None:
    moved(ground, 2, "release", approved(ground, a_round(ground)))
    if since:
        moved(ground, 3, since, ())
    # Serving does not run here: whoever asked it would see UnavailableError.
    following = release(ground, a_round(ground), lambda: None)
    assert following is not None
    assert following.state is State.RELEASED


def test_the_same_adapter_released_for_another_round_is_no_release_of_this_one(
    ground: Ground,
) -> None:
    moved(ground, 2, "release", approved(ground, msgspec.structs.replace(a_round(ground), round=7)))
    moved(ground, 3, "kill", ())
    approved(ground, a_round(ground))
    with pytest.raises(UnavailableError):
        release(ground, a_round(ground), lambda: None)


def test_an_alias_that_did_not_move_is_asked_to(ground: Ground) -> None:
    approved(ground, a_round(ground))
    with pytest.raises(UnavailableError):
        release(ground, a_round(ground), lambda: None)


@pytest.mark.parametrize("since", ["kill", "rollback"])
def test_what_was_compared_with_something_else_is_not_released(ground: Ground, since: str) -> None:
    """The scorecard says that it is better than the champion; since then that was taken away."""
    moved(ground, 2, since, ())
    approved(ground, a_round(ground))
    round_ = msgspec.structs.replace(a_round(ground), champion=digest_bytes(b"champion"))
    following = release(ground, round_, lambda: None)
    assert following is not None
    assert following.state is State.FAILED
    assert following.reason.endswith("now base is served")


def test_while_serving_tries_it_out_the_round_waits(ground: Ground) -> None:
    cited = approved(ground, a_round(ground))
    moved(ground, 2, "shadow", cited)
    moved(ground, 3, "canary", cited, share=5)
    assert is_waiting(ground, a_round(ground))
    assert release(ground, a_round(ground), lambda: None) is None
    moved(ground, 4, "release", cited)
    assert not is_waiting(ground, a_round(ground))
    following = release(ground, a_round(ground), lambda: None)
    assert following is not None
    assert following.state is State.RELEASED


@pytest.mark.parametrize("reason", ["stop", "kill"])
def test_a_rollout_that_was_ended_fails_the_round_and_says_why(ground: Ground, reason: str) -> None:
    moved(ground, 2, "shadow", approved(ground, a_round(ground)))
    moved(ground, 3, reason, ())
    assert not is_waiting(ground, a_round(ground))
    following = release(ground, a_round(ground), lambda: None)
    assert following is not None
    assert (following.state, following.reason) == (State.FAILED, f"{reason} by espalier: why 3")


def test_another_rounds_rollout_is_not_this_rounds(ground: Ground) -> None:
    moved(ground, 2, "shadow", approved(ground, msgspec.structs.replace(a_round(ground), round=7)))
    approved(ground, a_round(ground))
    assert not is_waiting(ground, a_round(ground))
