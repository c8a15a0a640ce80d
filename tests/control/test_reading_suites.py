"""What is read of suites: their items, their history, and what one version changed."""

import pytest

from appliance.control import law
from appliance.control.acting import suites
from appliance.control.reading import suite_history
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground
from appliance.core.errors import ForbiddenError, NotFoundError
from tests.control.keeping import OLGA, person, text_of


def test_a_difference_names_what_came_went_and_changed(ground: Ground, unchecked: None) -> None:
    first = suites.change(ground, OLGA, "sums", text_of("target", 1, 2, 3))
    changed = text_of("canary", 2, 3, 4).replace(
        '"item_id": "3"', '"language": "de", "item_id": "3"'
    )
    second = suites.change(ground, OLGA, "sums", changed)
    assert isinstance(first, law.Entry)
    assert isinstance(second, law.Entry)
    found = suite_history.difference(ground, OLGA, "sums", first.object, second.object)
    assert [i.item_id for i in found.added] == ["4"]
    assert [i.item_id for i in found.removed] == ["1"]
    assert [(a.language, b.language) for a, b in found.changed] == [("", "de")]
    assert (found.kind_before, found.kind_after) == ("target", "canary")
    (newest, oldest) = suite_history.history(ground, OLGA, "sums")
    assert (newest.added, newest.removed, newest.changed) == (1, 1, 1)
    assert (oldest.added, oldest.before) == (3, "")
    whole = suite_history.difference(ground, OLGA, "sums", "", first.object)
    assert whole.num_added == 3


def test_an_object_that_is_no_version_of_it_is_not_shown(ground: Ground, unchecked: None) -> None:
    entry = suites.change(ground, OLGA, "sums", text_of("target", 1))
    secret = ground.store.put(text_of("target", 9).encode())
    with pytest.raises(NotFoundError, match="no version"):
        suite_history.difference(ground, OLGA, "sums", "", secret)
    with pytest.raises(NotFoundError, match="no version"):
        suite_history.difference(ground, OLGA, "other", "", entry.object)


def test_items_have_the_endpoints_label(ground: Ground, unchecked: None) -> None:
    entry = suites.change(ground, OLGA, "sums", text_of("target", 1))
    public = person("paul", label="public")
    assert reading.one(ground, public, "sums").num_items == 1
    for read in (
        lambda: reading.items(ground, public, "sums"),
        lambda: reading.item(ground, public, "sums", "1"),
        lambda: suite_history.difference(ground, public, "sums", "", entry.object),
    ):
        with pytest.raises(ForbiddenError, match="label"):
            read()


def test_pages_of_items_and_of_history(ground: Ground, unchecked: None) -> None:
    suites.change(ground, OLGA, "sums", text_of("target", *range(120)))
    pages = [reading.items(ground, OLGA, "sums", after=after) for after in (0, 50, 100, 150)]
    assert [len(page) for page in pages] == [50, 50, 20, 0]
    assert [p.place for p in pages[1][:2]] == [51, 52]
    for number in range(60):
        suites.change(ground, OLGA, "sums", text_of("target", *range(121 + number)))
    first = suite_history.history(ground, OLGA, "sums")
    rest = suite_history.history(ground, OLGA, "sums", before=first[-1].sequence)
    assert (len(first), len(rest)) == (50, 11)
    assert first[-1].before == rest[0].object
    assert first[-1].added == 1, "counted against the version on the next page"


def test_the_owner_is_whoever_began_it_since_it_was_last_repealed(
    ground: Ground, unchecked: None
) -> None:
    suites.change(ground, person("ann"), "sums", text_of("target", 1))
    suites.change(ground, person("ben"), "sums", text_of("target", 1, 2))
    assert reading.one(ground, OLGA, "sums").owner == "ann"
    suites.repeal(ground, OLGA, "sums")
    assert reading.in_force(ground, OLGA) == []
    suites.change(ground, person("cid"), "sums", text_of("target", 1))
    suites.change(ground, person("dee"), "sums", text_of("target", 2))
    assert reading.one(ground, OLGA, "sums").owner == "cid"
