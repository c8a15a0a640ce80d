"""While a candidate is tried out, what is served stays what it was, and people see both."""

import msgspec
import pytest

from appliance.control.reading.overview import served_now
from appliance.control.steps import Ground
from appliance.core.decisions import Release, Rollout
from appliance.core.digests import Digest, digest_bytes, short
from serving import journal
from tests.control.browser import Browser

CHAMPION, CANDIDATE = digest_bytes(b"champion"), digest_bytes(b"candidate")


def moved(ground: Ground, generation: int, reason: str, share: int | None = None) -> None:
    adapter: Digest | None = None if reason == "start" else CHAMPION
    trying = msgspec.UNSET if share is None else Rollout(candidate=CANDIDATE, share=share, salt="s")
    entry = Release(
        alias="company-model", generation=generation, adapter=adapter, previous=None,
        reason=reason, approvals=(), actor="espalier", at=float(generation), rollout=trying,  # type: ignore[arg-type]
    )  # fmt: skip
    journal.append(ground.database, entry, comment="it refuses" if reason == "stop" else "")


@pytest.fixture
def tried(ground: Ground) -> Ground:
    moved(ground, 1, "start")
    moved(ground, 2, "release")
    moved(ground, 3, "shadow", 0)
    moved(ground, 4, "canary", 5)
    return ground


def test_what_is_served_is_still_the_champion(tried: Ground) -> None:
    now = served_now(tried)
    assert now is not None
    assert (now.adapter, now.generation, now.reason) == (CHAMPION, 2, "release")


def test_people_see_the_candidate_and_can_take_it_away(tried: Ground, olga: Browser) -> None:
    page = olga.page("/releases")
    assert "5 % of the sessions" in page
    assert "The candidate is taken away" in page
    assert page.count(CANDIDATE) >= 2
    status = olga.client.get("/api/status", auth=(olga.name, "long enough for a test")).json()
    assert status["serving"] == CHAMPION
    assert (status["rollout"]["candidate"], status["rollout"]["share"]) == (CANDIDATE, 5)


def test_after_a_stop_the_page_says_why(tried: Ground, olga: Browser) -> None:
    moved(tried, 5, "stop")
    page = olga.page("/releases")
    assert "it refuses" in page
    assert "New requests get the version before" in page
    assert "Tried out" not in page
    assert short(CHAMPION)[:12] in olga.page("/") or CHAMPION in olga.page("/")
