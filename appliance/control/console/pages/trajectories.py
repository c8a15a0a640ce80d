"""Trajectories: the list, one as a tree of turns, corrections; an adapter and what made it."""

from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from appliance.control.acting import corrections as acting
from appliance.control.api.trajectories import attached, plain
from appliance.control.console.asking import Form, Here, Reader, page, see_other
from appliance.control.identity import Person
from appliance.control.reading import adapter_lineage, lineage, tokens, trajectory, visible
from appliance.control.reading import trajectories as reading
from appliance.control.steps import Ground
from appliance.core.errors import RecordError
from policies.access import Act
from policies.teaching import may_teach

router = APIRouter()

Count = Annotated[int, Query(ge=0, le=2**31)]

T = TypeVar("T")

_FORM_MAX = 20_000
"""Characters of an answer that a form is filled with."""


@router.get("/trajectories")
def trajectories(
    request: Request,
    here: Here,
    who: Reader,
    team: str = "",
    project: str = "",
    agent: str = "",
    outcome: str = "",
    adapter: str = "",
    tier: str = "",
    state: str = "",
    text: str = "",
    after: str = "",
) -> Response:
    """Current versions, newest first."""
    values = {"team": team, "project": project, "agent": agent, "outcome": outcome}
    values |= {"adapter": adapter, "tier": tier, "state": state, "text": text}
    chosen = {name: value for name, value in values.items() if value}
    found = reading.find(here, who, reading.convert_filters(values), after)
    further = {**chosen, "after": found.after or ""}
    return page(
        request,
        "trajectories.html",
        title="Trajectories",
        found=found,
        facets=visible.facets(here, who),
        values=values,
        chosen=chosen,
        first=f"/trajectories?{urlencode(chosen)}" if after else None,
        further=f"/trajectories?{urlencode(further)}" if found.after else None,
        is_whole=len(found.rows) == reading.PAGE or found.after is None,
    )


@router.get("/trajectories/{trajectory_id}")
def show(
    request: Request,
    trajectory_id: str,
    here: Here,
    who: Reader,
    version: Count | None = None,
    after: Count = 0,
    token_node: Annotated[int | None, Query(alias="tokens", ge=0, le=2**31)] = None,
    start: Count | None = None,
    correct_node: Annotated[int | None, Query(alias="correct", ge=0, le=2**31)] = None,
) -> Response:
    """One as a tree; with `tokens` or `correct`, one turn of it closely."""
    node = token_node if token_node is not None else correct_node
    where: dict[str, Any] = {} if node is None else {"most": 1}
    found = trajectory.get(
        here, who, trajectory_id, version, after=after if node is None else node, **where
    )
    shown = None
    if token_node is not None:
        shown = tokens.tokens(here, who, trajectory_id, token_node, start=start, version=version)
    is_current = found.versions[0].version == found.about.version
    return page(
        request,
        "trajectory.html",
        title=found.about.task or f"Trajectory {trajectory_id[:14]}",
        found=found,
        node=node,
        shown=shown,
        answer=_answer(here, who, trajectory_id, correct_node, version),
        lineage=lineage.of_trajectory(here, who, trajectory_id),
        may_correct=who.may(Act.CORRECT) and is_current,
        may_talk=who.may(Act.TALK),
        teaches=may_teach(found.about.team, found.about.project),
        at=f"/trajectories/{quote(trajectory_id, safe='')}",
        of_version="" if is_current else f"&version={found.about.version}",
        is_current=is_current,
    )


@router.get("/trajectories/{trajectory_id}/record")
def record(trajectory_id: str, here: Here, who: Reader, version: Count | None = None) -> Response:
    """The whole record, to keep."""
    data, number = trajectory.as_json(here, who, trajectory_id, version)
    return attached(data, "application/json", f"{trajectory_id}-v{number}.json")


@router.get("/trajectories/{trajectory_id}/text")
def text(
    trajectory_id: str,
    here: Here,
    who: Reader,
    node: Count,
    message: Count | None = None,
    version: Count | None = None,
) -> Response:
    """A long text, whole."""
    whole = trajectory.whole_text(here, who, trajectory_id, node, message=message, version=version)
    return plain(whole, f"{trajectory_id}-turn-{node}.txt")


@router.post("/trajectories/{trajectory_id}/correct")
def correct(trajectory_id: str, here: Here, who: Reader, form: Form) -> Response:
    """What an answer should have been."""
    names = ("node", "turn_id", "text", "comment")
    ask = _asked(acting.Correction, {name: form.get(name, "") for name in names})
    acting.correct(here, who, trajectory_id, ask)
    href = f"/trajectories/{quote(trajectory_id, safe='')}?after={ask.node}"
    return see_other(href, notice="corrected")


@router.post("/trajectories/{trajectory_id}/judge")
def judge(trajectory_id: str, here: Here, who: Reader, form: Form) -> Response:
    """How a turn, or the whole, turned out."""
    names = ("node", "turn_id", "outcome", "comment")
    given = {name: form.get(name, "") for name in names}
    ask = _asked(acting.Judgement, {key: value for key, value in given.items() if value})
    acting.judge(here, who, trajectory_id, ask)
    href = f"/trajectories/{quote(trajectory_id, safe='')}?after={ask.node or 0}"
    return see_other(href, notice="feedback")


@router.get("/adapters/{digest}")
def adapter(
    request: Request,
    digest: Annotated[str, Path(max_length=100)],
    here: Here,
    who: Reader,
    after: str = "",
) -> Response:
    """An adapter, and what made it."""
    found = adapter_lineage.of_adapter(here, who, digest, after)
    href = f"/adapters/{found.adapter}"
    return page(
        request,
        "adapter.html",
        title=f"Adapter {found.number}",
        found=found,
        first=href if after else None,
        further=f"{href}?after={quote(found.after)}" if found.after else None,
    )


def _answer(
    ground: Ground, person: Person, trajectory_id: str, node: int | None, version: int | None
) -> str | None:
    """What the form is filled with; None where it would be too long to be changed there."""
    if node is None:
        return None
    whole = trajectory.whole_text(ground, person, trajectory_id, node, version=version)
    return whole if len(whole) <= _FORM_MAX else None


def _asked(kind: type[T], values: dict[str, str]) -> T:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RecordError(f"not a form of this page: {error}") from error
