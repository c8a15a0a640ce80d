"""The samples of a review: their order, filters, pages; what is read, and by whom."""

import time

import pytest

from appliance.control.reading import sample, samples
from appliance.control.reading.sample_index import Filters, Shelf
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.errors import ForbiddenError, IntegrityError, NotFoundError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from tests.control.reviewing import Asked, a_round, ada, said

SCORED = {"kind": "likelihood", "answer": "x"}


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


def worked() -> Asked:
    """One sample of each sort, in an order that is not the one to show."""
    asked = Asked("work")
    asked.add("same", said("x"), said("x"), "airline", "en")
    asked.add("reworded", said("x"), said("y"), "airline", "de")
    asked.add("gained", said("x", "failed"), said("y"), "billing", "de")
    asked.add("hangs", said("x"), said("", "void", "it ran out of time"), "billing", "en")
    return asked.add("lost", said("x"), said("y", "failed", "not it"), "billing", "ja")


def scored() -> Asked:
    asked = Asked("known answers", check=SCORED)
    asked.add("likelier", said("", logprob=-2.0), said("", logprob=-1.0))
    asked.add("slightly lost", said("", logprob=-1.0), said("", logprob=-1.125))
    return asked.add("much lost", said("", logprob=-1.0), said("", logprob=-3.0))


def many(num: int) -> Asked:
    asked = Asked("many")
    for i in range(num):
        outcome = "failed" if i % 3 == 0 else "ok"
        asked.add(f"i{i}", said(f"a {i}"), said(f"b {i}", outcome), f"family {i % 4}", "de")
    return asked


def ids(page: samples.Page) -> list[str]:
    return [row.item_id for row in page.rows]


def test_what_got_worse_comes_first_then_what_was_scored_by_its_loss(ground: Ground) -> None:
    number = a_round(ground, [worked(), scored()])
    page = samples.find(ground, ada(), number, Filters())
    assert ids(page) == [
        *("lost", "much lost", "slightly lost"),
        *("gained", "likelier"),
        *("hangs", "reworded", "same"),
    ]
    changes = {"regressed": 3, "gained": 2, "void": 1, "changed": 1, "unchanged": 1}
    assert page.counts.change == changes
    lost = page.rows[0]
    assert (lost.champion.outcome, lost.candidate.outcome) == ("ok", "failed")
    assert (lost.family, lost.language, lost.prompt) == ("billing", "ja", "question lost")
    assert page.rows[1].by == -2.0


def test_filters_are_and_ed_and_each_value_is_counted_under_the_others(ground: Ground) -> None:
    number = a_round(ground, [worked(), scored()])
    page = samples.find(ground, ada(), number, Filters(family="billing", language="de"))
    assert ids(page) == ["gained"]
    assert (page.total, page.all) == (1, 8)
    assert page.counts.family == {"airline": 1, "billing": 1}
    assert page.counts.language == {"de": 1, "en": 1, "ja": 1}
    assert page.counts.change == {"gained": 1}
    assert samples.find(ground, ada(), number, Filters(suite="none such")).rows == []


def test_pages_hold_25_and_meet_without_a_gap(ground: Ground) -> None:
    number = a_round(ground, [many(60)])
    pages = [samples.find(ground, ada(), number, Filters(), at) for at in (0, 25, 50)]
    assert [len(page.rows) for page in pages] == [25, 25, 10]
    assert len({item for page in pages for item in ids(page)}) == 60
    assert samples.find(ground, ada(), number, Filters(), 10**9).position == 50


def test_a_label_above_the_readers_is_named_and_nothing_is_shown(ground: Ground) -> None:
    number = a_round(ground, [worked()], label="secret/finance")
    for low in (ada("internal"), ada("secret")):
        with pytest.raises(ForbiddenError, match="labelled secret/finance"):
            samples.find(ground, low, number, Filters())
        with pytest.raises(ForbiddenError, match="labelled secret/finance"):
            sample.one(ground, low, number, "work", "lost")
        with pytest.raises(ForbiddenError):
            sample.blind(ground, low, number, "work", "lost")
        with pytest.raises(ForbiddenError):
            sample.whole_text(ground, low, number, "work", "lost", "asked")
    assert samples.find(ground, ada("secret/finance+legal"), number, Filters()).all == 5


def test_one_sample_has_the_prompt_the_check_both_answers_and_its_neighbours(
    ground: Ground,
) -> None:
    number = a_round(ground, [worked()])
    found = sample.one(ground, ada(), number, "work", "gained", Filters(family="billing"))
    assert [(one.role, one.text.text) for one in found.asked.prompt] == [
        ("user", "question gained")
    ]
    assert found.asked.check_kind == "exact"
    assert (found.champion.text.text, found.candidate.text.text) == ("x", "y")
    assert found.difference.parts == [("del", "x"), ("ins", "y")]
    assert found.previous is not None
    assert found.next is not None
    assert (found.previous.item_id, found.next.item_id) == ("lost", "hangs")
    assert (found.place, found.total) == (2, 3)
    assert sample.one(ground, ada(), number, "work", "lost").candidate.detail == "not it"
    with pytest.raises(NotFoundError, match="no sample"):
        sample.one(ground, ada(), number, "work", "none such")


def test_a_scorecard_without_kept_suites_still_shows_its_answers(ground: Ground) -> None:
    """Those that were made before suites were kept."""
    number = a_round(ground, [worked()], keep_suites=False)
    page = samples.find(ground, ada(), number, Filters())
    assert ids(page)[0] == "lost"
    assert page.counts.family == {"": 5}
    found = sample.one(ground, ada(), number, "work", "lost")
    assert (found.asked.prompt, found.candidate.text.text) == ([], "y")


def test_a_round_without_a_scorecard_says_so(ground: Ground) -> None:
    number = a_round(ground, state="training")
    with pytest.raises(NotFoundError, match="has no scorecard: it is training"):
        samples.find(ground, ada(), number, Filters())


def outputs_of(ground: Ground, number: int) -> bytearray:
    round_ = samples.candidate.of(ground, ada(), number)
    digest = samples.candidate.scorecard_of(ground, round_).outputs
    assert digest is not None
    path = ground.home.objects / digest[7:9] / digest[9:]
    path.chmod(0o644)
    return bytearray(path.read_bytes())


def put_outputs(ground: Ground, number: int, data: bytes) -> None:
    digest = samples.candidate.scorecard_of(
        ground, samples.candidate.of(ground, ada(), number)
    ).outputs
    assert digest is not None
    (ground.home.objects / digest[7:9] / digest[9:]).write_bytes(data)


def test_answers_that_were_changed_on_disk_are_not_shown(ground: Ground) -> None:
    number = a_round(ground, [worked()])
    data = outputs_of(ground, number)
    damaged = data.replace(b'"text":"y","outcome":"failed"', b'"text":"z","outcome":"failed"')
    assert damaged != data
    put_outputs(ground, number, damaged)
    with pytest.raises(IntegrityError, match="damaged"):
        samples.find(ground, ada(), number, Filters())


def test_answers_that_are_changed_after_they_were_indexed_are_not_shown(ground: Ground) -> None:
    number = a_round(ground, [worked()])
    data = outputs_of(ground, number)
    samples.find(ground, ada(), number, Filters())
    put_outputs(ground, number, data.replace(b'"y","outcome":"failed"', b'"z","outcome":"failed"'))
    with pytest.raises(IntegrityError, match="changed on disk"):
        sample.one(ground, ada(), number, "work", "lost")


def test_two_scorecards_are_kept_and_a_third_takes_the_place_of_the_oldest(ground: Ground) -> None:
    shelf = Shelf()
    round_ = samples.candidate.of(ground, ada(), a_round(ground, [worked()]))
    card = samples.candidate.scorecard_of(ground, round_)
    names = [ground.store.put(bytes([i])) for i in range(3)]
    first, second = (shelf.get(ground.store, name, card) for name in names[:2])
    assert shelf.get(ground.store, names[0], card) is first
    shelf.get(ground.store, names[2], card)
    assert shelf.get(ground.store, names[0], card) is first
    assert shelf.get(ground.store, names[1], card) is not second


ODD = {
    "script": "<script>alert(1)</script>",
    "right-to-left": "لا. \u202eانتهت",
    "controls": "a\x00b\x1b[31mc\x7f\u2028d",
    "quotes": '"},{"text":"\\"',
    "key": '","text":"not it',
    "emoji": "👩‍💻" * 3000,
    "escapes": '\\\n"\t' * 5000,
}


@pytest.mark.parametrize("name", ODD)
def test_any_text_comes_back_as_it_was_said(ground: Ground, name: str) -> None:
    asked = Asked("odd").add(f"{name}/../{ODD[name][:20]}", said(ODD[name]), said(ODD[name] + "!"))
    number = a_round(ground, [asked])
    (row,) = samples.find(ground, ada(), number, Filters()).rows
    assert row.change == "changed"
    assert ODD[name].startswith(row.champion.text)
    assert len(row.champion.text) == min(160, len(ODD[name]))
    found = sample.one(ground, ada(), number, row.suite, row.item_id)
    assert found.champion.text.text == ODD[name][:4000]
    whole = sample.whole_text(ground, ada(), number, row.suite, row.item_id, "champion")
    assert whole == ODD[name]


def test_ten_megabytes_are_cut_and_quick(ground: Ground) -> None:
    long = "ü" * 5_000_000
    number = a_round(ground, [Asked("long").add("i", said(long), said(long[1:] + "x", "failed"))])
    began = time.thread_time()
    (row,) = samples.find(ground, ada(), number, Filters()).rows
    assert row.champion.text == "ü" * 160
    found = sample.one(ground, ada(), number, "long", "i")
    assert time.thread_time() - began < 1.0
    assert found.champion.text.cut
    assert (len(found.champion.text.text), found.champion.text.num_chars) == (4000, 5_000_000)
    assert found.difference.by == "nothing"


def test_ten_thousand_samples_are_indexed_once_and_paged_quickly(ground: Ground) -> None:
    number = a_round(ground, [many(10_000)])
    samples.find(ground, ada(), number, Filters())
    began = time.thread_time()
    for at in range(0, 250, 25):
        assert len(samples.find(ground, ada(), number, Filters(), at).rows) == 25
    # A tenth of a second for each, on a machine that has other things to do: 2 ms alone.
    assert time.thread_time() - began < 0.5
