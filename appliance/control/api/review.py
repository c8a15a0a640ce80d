"""The review of a candidate: checks, samples, data, provenance, history, card; ticks and votes.

SUITE and ITEM are percent-encoded each, slashes too: an item's id may hold anything.
"""

from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from appliance.control.acting import marks as acting
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from appliance.control.reading import card, chain_picture, checks, data, head, history
from appliance.control.reading import provenance as chain
from appliance.control.reading import sample as one_sample
from appliance.control.reading import samples as many_samples
from appliance.control.reading.sample_index import Filters
from appliance.core.errors import UsageError

router = APIRouter(tags=["review"])

Number = Annotated[int, Path(ge=0, le=2**31)]
Position = Annotated[int, Query(ge=0, le=10_000_000)]


def filters_of(
    suite: str = "",
    family: str = "",
    language: str = "",
    change: str = "",
    viewed: Literal["", "yes", "no"] = "",
) -> Filters:
    """Which samples are asked for."""
    return Filters(suite=suite, family=family, language=language, change=change, viewed=viewed)


def sample_of(request: Request) -> tuple[str, str]:
    """Suite and item: the last two segments of the address as it was sent.

    A slash in either is %2F there, which the decoded path cannot tell from a separator.

    Raises:
        UsageError: they are not UTF-8.
    """
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    suite, _, item_id = raw.partition(b"?")[0].rpartition(b"/")
    try:
        return (
            unquote_to_bytes(suite.rpartition(b"/")[2]).decode(),
            unquote_to_bytes(item_id).decode(),
        )
    except UnicodeDecodeError as error:
        raise UsageError("a suite and an item are named in UTF-8, percent-encoded") from error


def data_filters_of(
    reason: str = "",
    team: str = "",
    label: str = "",
    kind: Literal["", "taken", "corrected", "left_out"] = "",
) -> data.Filters:
    """Which trajectories are asked for."""
    return data.Filters(reason=reason, team=team, label=label, kind=kind)


Asked = Annotated[Filters, Depends(filters_of)]
DataAsked = Annotated[data.Filters, Depends(data_filters_of)]
Sample = Annotated[tuple[str, str], Depends(sample_of)]


@router.get("/rounds/{number}/review")
def show_head(number: Number, here: Here, who: Signed) -> Response:
    """What would replace what, who made it, its size, until when it waits."""
    return answer(head.of(here, who, number))


@router.get("/rounds/{number}/checks")
def show_checks(number: Number, here: Here, who: Signed) -> Response:
    """Each gate on each suite, with its numbers and its reason."""
    return answer(checks.of(here, who, number))


@router.get("/rounds/{number}/samples")
def list_samples(
    number: Number, here: Here, who: Signed, asked: Asked, position: Position = 0
) -> Response:
    """25 samples from `position` on: what got worse first."""
    return answer(many_samples.find(here, who, number, asked, position))


@router.get("/rounds/{number}/samples/{sample:path}")
def show_sample(number: Number, here: Here, who: Signed, sample: Sample, asked: Asked) -> Response:
    """One sample: prompt, check, both answers and what differs. The address ends SUITE/ITEM."""
    return answer(one_sample.one(here, who, number, *sample, asked))


@router.get("/rounds/{number}/blind/{sample:path}")
def show_blind(number: Number, here: Here, who: Signed, sample: Sample, asked: Asked) -> Response:
    """One sample without saying which side is which until you have voted."""
    return answer(one_sample.blind(here, who, number, *sample, asked))


@router.get("/rounds/{number}/texts/{part}/{sample:path}")
def show_text(
    number: Number,
    part: Literal["champion", "candidate", "asked"],
    here: Here,
    who: Signed,
    sample: Sample,
) -> Response:
    """The whole of a text that the sample shows cut."""
    return answer({"text": one_sample.whole_text(here, who, number, *sample, part)})


@router.post("/rounds/{number}/viewed/{sample:path}", **takes(acting.Viewed))
def view(
    number: Number,
    here: Here,
    who: Signed,
    sample: Sample,
    ask: Annotated[acting.Viewed, Depends(body_of(acting.Viewed))],
) -> Response:
    """Tick a sample, or take the tick away."""
    return answer(acting.view(here, who, number, *sample, ask))


@router.post("/rounds/{number}/votes/{sample:path}", **takes(acting.Vote))
def vote(
    number: Number,
    here: Here,
    who: Signed,
    sample: Sample,
    ask: Annotated[acting.Vote, Depends(body_of(acting.Vote))],
) -> Response:
    """Vote on a sample: champion, candidate or tie; blind ones left, right or tie."""
    return answer(acting.vote(here, who, number, *sample, ask))


@router.get("/rounds/{number}/history")
def show_history(number: Number, here: Here, who: Signed) -> Response:
    """Comments, decisions with those that are dismissed, and the audit log's entries."""
    return answer(history.of(here, who, number))


@router.post("/rounds/{number}/comments", status_code=201, **takes(acting.Said))
def comment(
    number: Number,
    here: Here,
    who: Signed,
    ask: Annotated[acting.Said, Depends(body_of(acting.Said))],
) -> Response:
    """Say something about a round."""
    return answer(acting.comment(here, who, number, ask), 201)


@router.post("/rounds/{number}/comments/{sample:path}", status_code=201, **takes(acting.Said))
def comment_on_sample(
    number: Number,
    here: Here,
    who: Signed,
    sample: Sample,
    ask: Annotated[acting.Said, Depends(body_of(acting.Said))],
) -> Response:
    """Say something about a sample."""
    suite, item_id = sample
    return answer(acting.comment(here, who, number, ask, suite=suite, item_id=item_id), 201)


@router.get("/rounds/{number}/data")
def show_data(
    number: Number, here: Here, who: Signed, asked: DataAsked, after: str = ""
) -> Response:
    """The dataset in numbers, and 50 of its trajectories whose id comes after `after`."""
    return answer(data.find(here, who, number, asked, after))


@router.get("/rounds/{number}/provenance")
def show_provenance(number: Number, here: Here, who: Signed) -> Response:
    """The chain of digests, each checked, and the same as a picture."""
    found = chain.of(here, who, number)
    shown: dict[str, Any] = {"chain": found, "picture": chain_picture.draw(found)}
    return answer(shown)


@router.get("/rounds/{number}/card.md")
def show_card(number: Number, here: Here, who: Signed) -> Response:
    """The model card, in Hugging Face's format."""
    return Response(card.of(here, who, number), media_type="text/markdown; charset=utf-8")
