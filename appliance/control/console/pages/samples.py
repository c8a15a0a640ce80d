"""The samples of a review: listed, side by side, and blind."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from appliance.control.acting import marks as acting
from appliance.control.api.review import Asked, Number, Position, Sample
from appliance.control.console.asking import Form, Here, Reader, page, see_other
from appliance.control.console.links import query_of, sample_href
from appliance.control.console.pages.review import around
from appliance.control.reading import sample as one_sample
from appliance.control.reading import samples as many_samples
from appliance.control.reading.sample import Neighbour
from appliance.control.reading.sample_index import CHANGES, FACETS, Filters
from appliance.control.reading.samples import PAGE

router = APIRouter()

_OPTIONS_MAX = 200
_EVERY = {
    "suite": "every suite",
    "family": "every family",
    "language": "every language",
    "change": "every change",
}


@router.get("/rounds/{number}/samples")
def samples(
    request: Request,
    number: Number,
    here: Here,
    who: Reader,
    asked: Asked,
    position: Position = 0,
) -> Response:
    """What got worse, first."""
    found = many_samples.find(here, who, number, asked, position)
    base, at = f"/rounds/{number}/samples", found.position
    before = f"{base}?{query_of(asked, position=str(max(at - PAGE, 0)))}" if at else None
    after = at + PAGE if at + PAGE < found.total else None
    return page(
        request,
        "review_samples.html",
        **around(here, who, number, "samples"),
        found=found,
        asked=asked,
        options={facet: _options(found, asked, facet) for facet in FACETS},
        rows=[(one, sample_href(number, one.suite, one.item_id, asked)) for one in found.rows],
        previous=before,
        following=f"{base}?{query_of(asked, position=str(after))}" if after else None,
    )


@router.get("/rounds/{number}/samples/{sample:path}")
def sample(
    request: Request, number: Number, here: Here, who: Reader, sample: Sample, asked: Asked
) -> Response:
    """Champion and candidate side by side."""
    found = one_sample.one(here, who, number, *sample, asked)
    return page(
        request, "review_sample.html", **around(here, who, number, "samples"), found=found,
        asked=asked, **_hrefs(number, sample, asked, found.previous, found.next, "samples"),
    )  # fmt: skip


@router.get("/rounds/{number}/blind/{sample:path}")
def blind(
    request: Request, number: Number, here: Here, who: Reader, sample: Sample, asked: Asked
) -> Response:
    """Two answers, without saying which is which until there is a vote."""
    found = one_sample.blind(here, who, number, *sample, asked)
    return page(
        request, "review_blind.html", **around(here, who, number, "samples"), found=found,
        asked=asked, **_hrefs(number, sample, asked, found.previous, found.next, "blind"),
    )  # fmt: skip


@router.get("/rounds/{number}/texts/{part}/{sample:path}")
def text(
    number: Number,
    part: Literal["champion", "candidate", "asked"],
    here: Here,
    who: Reader,
    sample: Sample,
) -> Response:
    """The whole of a text, as plain text."""
    return PlainTextResponse(one_sample.whole_text(here, who, number, *sample, part))


@router.post("/rounds/{number}/viewed/{sample:path}")
def view(
    number: Number, here: Here, who: Reader, form: Form, sample: Sample, asked: Asked
) -> Response:
    """Tick, and go on to the next one."""
    ticked = form.get("viewed", "1") == "1"
    # Asked before the tick: with the filter "not viewed" the sample is about to leave the order.
    following = one_sample.one(here, who, number, *sample, asked).next if ticked else None
    acting.view(here, who, number, *sample, acting.Viewed(viewed=ticked))
    goal = (following.suite, following.item_id) if following else sample
    return see_other(sample_href(number, *goal, asked), notice="marked")


@router.post("/rounds/{number}/votes/{sample:path}")
def vote(
    number: Number, here: Here, who: Reader, form: Form, sample: Sample, asked: Asked
) -> Response:
    """Vote; a blind vote shows which side was which."""
    acting.vote(here, who, number, *sample, acting.Vote(choice=form.get("choice", "")))
    room = "blind" if form.get("room") == "blind" else "samples"
    return see_other(sample_href(number, *sample, asked, room=room), notice="marked")


@router.post("/rounds/{number}/comments/{sample:path}")
def comment(
    number: Number, here: Here, who: Reader, form: Form, sample: Sample, asked: Asked
) -> Response:
    """Say something about the sample."""
    suite, item_id = sample
    said = acting.Said(body=form.get("body", ""))
    acting.comment(here, who, number, said, suite=suite, item_id=item_id)
    return see_other(sample_href(number, suite, item_id, asked), notice="commented")


def _options(found: many_samples.Page, asked: Filters, facet: str) -> list[tuple[str, str]]:
    """A select's values, each with how many samples it would leave."""
    counts: dict[str, int] = getattr(found.counts, facet)
    names = list(CHANGES) if facet == "change" else sorted(counts)
    shown = [name for name in names if name and name in counts][:_OPTIONS_MAX]
    chosen = getattr(asked, facet)
    if chosen and chosen not in shown:
        shown.append(chosen)
    return [("", _EVERY[facet])] + [(n, f"{n[:60]} ({counts.get(n, 0):,})") for n in shown]


def _hrefs(
    number: Number,
    sample: tuple[str, str],
    asked: Filters,
    previous: Neighbour | None,
    following: Neighbour | None,
    room: str,
) -> dict[str, Any]:
    """Every address on a sample's page."""

    def neighbour(one: Neighbour | None) -> str | None:
        return sample_href(number, one.suite, one.item_id, asked, room=room) if one else None

    rooms = ("samples", "blind", "viewed", "votes", "comments")
    return {
        "previous": neighbour(previous),
        "following": neighbour(following),
        "all_href": f"/rounds/{number}/samples?{query_of(asked)}",
        "href": {one: sample_href(number, *sample, asked, room=one) for one in rooms},
        "whole": {part: sample_href(number, *sample, room=f"texts/{part}") for part in _PARTS},
    }


_PARTS = ("champion", "candidate", "asked")
