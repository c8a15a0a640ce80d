"""Ticks, votes and comments of a review, and the blind comparison."""

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control.acting import marks as acting
from appliance.control.acting.marks import COMMENT_MAX, Said, Viewed, Vote
from appliance.control.identity import Person
from appliance.control.reading import history, sample, samples
from appliance.control.reading.sample_index import Filters
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.errors import ForbiddenError, NotFoundError, UsageError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from appliance.core.tables import audit
from tests.control.reviewing import Asked, a_round, ada, said

BELA = Person(name="bela", role="approver", label="secret/finance")


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


@pytest.fixture
def number(ground: Ground) -> int:
    asked = Asked("work")
    for i in range(40):
        asked.add(f"i{i}", said(f"old {i}"), said(f"new {i}", "failed", "not it"))
    scored = Asked("known", check={"kind": "likelihood", "answer": "x"})
    scored.add("k", said("", logprob=-1.0), said("", logprob=-2.0))
    return a_round(ground, [asked, scored])


def acts(ground: Ground) -> list[str]:
    with ground.database.read() as connection:
        return list(connection.scalars(sa.select(audit.c.act).order_by(audit.c.sequence)))


def test_a_tick_is_the_readers_own_and_can_be_taken_away(ground: Ground, number: int) -> None:
    assert acting.view(ground, ada(), number, "work", "i3", Viewed()).viewed
    todo = Filters(viewed="no")
    assert samples.find(ground, ada(), number, todo).total == 40
    assert samples.find(ground, BELA, number, todo).total == 41
    assert samples.find(ground, ada(), number, Filters(viewed="yes")).rows[0].item_id == "i3"
    assert samples.find(ground, ada(), number, Filters()).viewed == 1
    assert not acting.view(ground, ada(), number, "work", "i3", Viewed(viewed=False)).viewed
    assert samples.find(ground, ada(), number, todo).total == 41
    assert acts(ground) == []


def test_a_vote_ticks_and_the_last_one_of_a_person_counts(ground: Ground, number: int) -> None:
    for choice in ("champion", "candidate"):
        mark = acting.vote(ground, ada(), number, "work", "i0", Vote(choice=choice))
        assert (mark.vote, mark.viewed) == (choice, True)
    acting.vote(ground, BELA, number, "work", "i0", Vote(choice="tie"))
    found = sample.one(ground, ada(), number, "work", "i0")
    assert found.votes == {"candidate": 1, "champion": 0, "tie": 1}
    assert found.mark.vote == "candidate"
    # A tick that is taken away later takes no vote with it.
    acting.view(ground, ada(), number, "work", "i0", Viewed(viewed=False))
    assert sample.one(ground, ada(), number, "work", "i0").mark.vote == "candidate"
    assert acts(ground) == ["review.vote"] * 3


def test_before_the_vote_nothing_tells_the_sides(ground: Ground, number: int) -> None:
    found = sample.blind(ground, ada(), number, "work", "i0")
    assert {found.left.text, found.right.text} == {"old 0", "new 0"}
    assert (found.vote, found.left_is, found.outcomes) == (None, None, {})
    told = msgspec.json.encode(found).decode()
    for word in ("champion", "candidate", "sha256", "failed", "not it", "ok"):
        assert word not in told.replace('"outcomes"', "")


def test_a_blind_vote_is_mapped_back_on_the_server(ground: Ground, number: int) -> None:
    for i in range(40):
        before = sample.blind(ground, ada(), number, "work", f"i{i}")
        left = "champion" if before.left.text.startswith("old") else "candidate"
        mark = acting.vote(ground, ada(), number, "work", f"i{i}", Vote(choice="left"))
        assert mark.vote == left
        after = sample.blind(ground, ada(), number, "work", f"i{i}")
        assert (after.left_is, after.left) == (left, before.left)
        assert after.outcomes == {"champion": "ok", "candidate": "failed"}


def test_sides_are_drawn_for_each_person_and_sample_by_a_secret(
    ground: Ground, number: int
) -> None:
    def order(person: Person) -> list[bool]:
        found = (sample.blind(ground, person, number, "work", f"i{i}") for i in range(40))
        return [one.left.text.startswith("old") for one in found]

    first = order(ada())
    assert 5 < sum(first) < 35
    assert first == order(ada())
    assert first != order(BELA)
    key = ground.home.secrets / "blind.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.unlink()
    assert first != order(ada())


def test_a_scored_sample_has_no_sides_to_compare(ground: Ground, number: int) -> None:
    with pytest.raises(NotFoundError, match="scored by likelihood"):
        sample.blind(ground, ada(), number, "known", "k")


def test_comments_stand_at_the_round_and_at_the_sample(ground: Ground, number: int) -> None:
    acting.comment(ground, ada(), number, Said(body="why so few?"))
    acting.comment(ground, BELA, number, Said(body=" <b>übel</b> "), suite="work", item_id="i1")
    found = history.of(ground, ada(), number)
    assert [(one.author, one.body, one.item_id) for one in found.comments] == [
        ("ada", "why so few?", None),
        ("bela", "<b>übel</b>", "i1"),
    ]
    (at_sample,) = sample.one(ground, ada(), number, "work", "i1").comments
    assert at_sample.author == "bela"
    assert acts(ground) == ["review.comment"] * 2


def test_a_comment_on_a_sample_is_not_for_those_who_may_not_see_it(
    ground: Ground, number: int
) -> None:
    acting.comment(ground, ada(), number, Said(body="it says X"), suite="work", item_id="i1")
    low = Person(name="vera", role="viewer", label="public")
    assert history.of(ground, low, number).comments == []


@pytest.mark.parametrize("body", ["", "  \n", "x" * (COMMENT_MAX + 1)])
def test_a_comment_says_something_and_not_too_much(ground: Ground, number: int, body: str) -> None:
    with pytest.raises(UsageError, match="1 to 10000 characters"):
        acting.comment(ground, ada(), number, Said(body=body))


def test_no_such_choice_sample_or_round(ground: Ground, number: int) -> None:
    with pytest.raises(UsageError, match="a vote is one of"):
        acting.vote(ground, ada(), number, "work", "i0", Vote(choice="both"))
    with pytest.raises(NotFoundError):
        acting.vote(ground, ada(), number, "work", "none", Vote(choice="tie"))
    with pytest.raises(NotFoundError):
        acting.view(ground, ada(), 99, "work", "i0", Viewed())
    with pytest.raises(NotFoundError):
        acting.comment(ground, ada(), number, Said(body="x"), suite="work", item_id="none")
    assert acts(ground) == []


REFUSED = {
    "viewer": ada(role="viewer"),
    "low-label": ada("public"),
    "token": msgspec.structs.replace(ada(), acts=frozenset({"view"})),
}


@pytest.mark.parametrize("who", REFUSED)
def test_who_may_not_leave_marks(ground: Ground, number: int, who: str) -> None:
    person = REFUSED[who]
    with pytest.raises(ForbiddenError):
        acting.view(ground, person, number, "work", "i0", Viewed())
    with pytest.raises(ForbiddenError):
        acting.vote(ground, person, number, "work", "i0", Vote(choice="tie"))
    with pytest.raises(ForbiddenError):
        acting.comment(ground, person, number, Said(body="x"), suite="work", item_id="i0")
    assert acts(ground) == []
    assert samples.find(ground, ada(), number, Filters()).votes["tie"] == 0
