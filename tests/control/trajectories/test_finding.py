"""Finding trajectories: filters, words in any language, pages, and what labels hide."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from appliance.control.acting import corrections
from appliance.control.acting.corrections import Correction, Judgement
from appliance.control.identity import Person
from appliance.control.reading import lineage, visible
from appliance.control.reading import tokens as token_reading
from appliance.control.reading import trajectories as reading
from appliance.control.reading import trajectory as one_reading
from appliance.control.reading.trajectories import Filters, Page
from appliance.control.steps import Ground
from appliance.core.errors import NotFoundError, UsageError
from appliance.core.records import Target
from tests.collectors.desk import Desk
from tests.control.trajectories.work import CLEARED, TEACHER, VIEWER, id_of, only, say, user, who


def words(page: Page) -> list[str]:
    """The names that `say` gave, in the order in which they were found."""
    return [row.words.split(" agent")[0].rpartition(" ")[2] for row in page.rows]


def test_every_filter_lets_through_what_it_says(ground: Ground, desk: Desk) -> None:
    adapter = "sha256:" + "a" * 64
    say(desk, "plain", at=1.0)
    for number, (name, field) in enumerate(
        [("north", "team"), ("billing", "project"), ("night", "agent")]
    ):
        say(desk, name, at=2.0 + number, who=who(desk, **{field: name}))
    say(desk, "adapted", at=5.0, adapter=adapter)
    desk.gold("gold", [5, 2], session="gold", at=6.0, messages=(user("a question"),))
    say(desk, "good", at=7.0)
    desk.say(Target(session="good"), "ok")
    desk.collector.flush(0.0)
    say(desk, "running", at=8.0)
    desk.collector.flush(3600.0)

    def found(**filters: str) -> list[str]:
        rows = reading.find(ground, VIEWER, Filters(**filters)).rows
        return [turn_of(ground, row.trajectory_id) for row in rows]

    everything = ["running", "good", "gold", "adapted", "night", "billing", "north", "plain"]
    assert found() == everything
    assert found(team="north") == ["north"]
    assert found(project="billing") == ["billing"]
    assert found(agent="night") == ["night"]
    assert found(adapter=adapter) == ["adapted"]
    assert found(adapter="base") == [name for name in everything if name != "adapted"]
    assert found(tier="gold") == ["gold"]
    assert found(outcome="ok") == ["good"]
    assert found(state="open") == ["running"]
    assert found(state="sealed") == everything[1:]
    assert found(team="north", agent="night") == []
    assert found(text="answer to ad") == ["adapted"]
    assert found(text="answer to ad", team="north") == []
    facets = visible.facets(ground, VIEWER)
    assert (facets.teams, facets.projects) == (("north", "team"), ("billing", "project"))
    assert (facets.agents, facets.adapters) == (("agent", "night"), (adapter,))


def turn_of(ground: Ground, trajectory_id: str) -> str:
    return one_reading.get(ground, VIEWER, trajectory_id).turns[0].turn_id


def test_a_filter_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="not a filter"):
        reading.convert_filters({"outcome": "good"})
    assert reading.convert_filters({"outcome": "ok"}) == Filters(outcome="ok")


@pytest.mark.parametrize("text", ["", "common"])
def test_pages_have_no_gaps_and_no_doubles(
    ground: Ground,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    monkeypatch.setattr(reading, "PAGE", 3)
    monkeypatch.setattr(reading, "_AT_A_TIME", 2)
    for number in range(11):
        # Several at the same moment.
        say(desk, f"n{number}", "a common question", at=float(number // 4))
    desk.collector.flush(0.0)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = reading.find(ground, VIEWER, Filters(text=text), after)
        assert len(page.rows) <= 3
        found += [row.trajectory_id for row in page.rows]
        after = page.after
    assert len(found) == len(set(found)) == 11


def test_a_search_that_takes_long_stops_for_breath_and_goes_on(
    ground: Ground,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_AT_A_TIME", 2)
    monkeypatch.setattr(reading, "_SEARCH_S", -1.0)
    for number in range(5):
        say(desk, f"n{number}", "a common question", at=float(number))
    desk.collector.flush(0.0)
    sizes, after, found = [], "", set()
    while after is not None:
        page = reading.find(ground, VIEWER, Filters(text="common"), after)
        sizes.append(len(page.rows))
        found |= {row.trajectory_id for row in page.rows}
        after = page.after
    assert (sizes, len(found)) == ([2, 2, 1], 5)


@pytest.mark.parametrize("cursor", ["x", "nan_t", "1e300_t", "_", "\0", "9" * 400])
@pytest.mark.parametrize("text", ["", "common"])
def test_a_cursor_that_is_none_of_ours_is_refused(ground: Ground, text: str, cursor: str) -> None:
    with pytest.raises(UsageError, match="not a place"):
        reading.find(ground, CLEARED, Filters(text=text), cursor)


@pytest.mark.parametrize(
    ("said", "sought"),
    [
        ("请问退货政策是什么", "货政策"),
        ("ما هي سياسة الإرجاع لديكم", "سياسة"),
        ("Можно ли вернуть Деньги?", "деньги"),
        ("El cami\u00f3n", "cami\u006f\u0301n"),
        ("Give me the refund for my\n  order", "refund for my order"),
        (
            "a long sentence that only differs very late: X",
            "sentence that only differs very late: x",
        ),
        ('say "hi" AND OR NOT (now)', '"hi" AND OR NOT (now)'),
        ("5 * 3 - 2 ^ NEAR(a b) {c} : col", "* 3 - 2 ^ NEAR(a b) {c} :"),
        ("100% _sure_", "% _s"),
        ('he said "so what', 'id "so w'),
    ],
)
def test_texts_of_any_kind_are_found(
    ground: Ground,
    desk: Desk,
    said: str,
    sought: str,
) -> None:
    say(desk, "here", said)
    say(desk, "there", "a long sentence that only differs very late: Y, and nothing else")
    desk.collector.flush(0.0)
    (row,) = reading.find(ground, VIEWER, Filters(text=sought)).rows
    assert row.trajectory_id == id_of(ground, "here")
    assert "answer to here" in row.words


@pytest.mark.parametrize("text", ["ab", " a ", "\u200b\u200ba", "x" * 201])
def test_a_text_that_is_too_short_or_too_long_is_refused(ground: Ground, text: str) -> None:
    with pytest.raises(UsageError, match="3 to 200 characters") as refused:
        reading.find(ground, VIEWER, Filters(text=text))
    assert refused.value.next_step


def test_labels_hide(ground: Ground, desk: Desk) -> None:
    say(desk, "low", at=1.0)
    say(desk, "high", at=2.0, label="secret/finance", who=who(desk, team="vault"))
    desk.collector.flush(0.0)
    high = id_of(ground, "high")
    for text in ("", "answer to"):
        assert len(reading.find(ground, CLEARED, Filters(text=text)).rows) == 2
        assert words(reading.find(ground, VIEWER, Filters(text=text))) == ["low"]
    assert visible.facets(ground, VIEWER).teams == ("team",)
    assert visible.facets(ground, CLEARED).teams == ("team", "vault")
    ask = Correction(node=0, text="better")
    teacher = msgspec.structs.replace(TEACHER, label="secret/legal")
    reads: list[Callable[[Person], Any]] = [
        lambda who: one_reading.get(ground, who, high),
        lambda who: one_reading.get(ground, who, high, 1),
        lambda who: one_reading.whole_text(ground, who, high, 0),
        lambda who: one_reading.as_json(ground, who, high),
        lambda who: lineage.of_trajectory(ground, who, high),
        lambda who: token_reading.tokens(ground, who, high, 0),
        lambda who: corrections.correct(ground, who, high, ask),
        lambda who: corrections.judge(ground, who, high, Judgement(outcome="ok")),
    ]
    for read in reads:
        # It is not told from one that does not exist.
        with pytest.raises(NotFoundError, match=r"^no trajectory"):
            read(teacher)


def test_a_label_that_rises_hides_earlier_versions_too(
    ground: Ground,
    desk: Desk,
) -> None:
    say(desk, "s", at=1.0)
    desk.collector.flush(0.0)
    one = only(ground)
    assert one_reading.get(ground, VIEWER, one, 1).about.version == 1
    later = desk.make.silver("b", [user("now secret")], "y", session="s", at=2.0, label="secret")
    desk.ingest.turn(later, {})
    desk.collector.flush(0.0)
    assert reading.find(ground, VIEWER, Filters()).rows == ()
    assert reading.find(ground, VIEWER, Filters(text="a question")).rows == ()
    with pytest.raises(NotFoundError):
        one_reading.get(ground, VIEWER, one, 1)


def test_only_current_versions_are_found_and_merged_ones_are_not(
    ground: Ground,
    desk: Desk,
) -> None:
    say(desk, "s", at=1.0)
    desk.collector.flush(0.0)
    desk.say(Target(session="s"), "ok")
    # A conversation whose first turn comes last: until then, it stands for itself.
    first = [user("first"), {"role": "assistant", "content": "one"}, user("second")]
    desk.ingest.turn(desk.make.silver("later", first, "two", at=5.0), {})
    desk.collector.flush(0.0)
    assert len(reading.find(ground, VIEWER, Filters()).rows) == 2
    merged = id_of(ground, "later")
    desk.ingest.turn(desk.make.silver("earlier", [user("first")], "one", at=4.0), {})
    desk.collector.flush(0.0)
    found = reading.find(ground, VIEWER, Filters()).rows
    assert [(row.version, row.num_turns) for row in found] == [(1, 2), (2, 1)]
    assert merged not in {row.trajectory_id for row in found}
    assert len(reading.find(ground, VIEWER, Filters(text="first")).rows) == 1
    # Datasets may hold it, so its name still leads somewhere.
    assert one_reading.get(ground, VIEWER, merged).about.state == "merged"
