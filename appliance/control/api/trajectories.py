"""Trajectories: find, read, trace, correct; and what an adapter was made of."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response

from appliance.control.acting import corrections as acting
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from appliance.control.reading import adapter_lineage, lineage, tokens, trajectory, visible
from appliance.control.reading import trajectories as reading
from appliance.control.reading.turn_views import TURNS

router = APIRouter(tags=["trajectories"])

Count = Annotated[int, Query(ge=0, le=2**31)]
Node = Annotated[int, Path(ge=0, le=2**31)]

ATTACHED_FROM = 1 << 20
"""Characters: a browser should keep a longer text, not show it."""


@router.get("/trajectories")
def list_trajectories(
    here: Here,
    who: Signed,
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
    """Current versions, newest first, 50 at a time; `adapter` is a full digest, or ``base``."""
    values = {"team": team, "project": project, "agent": agent, "outcome": outcome}
    values |= {"adapter": adapter, "tier": tier, "state": state, "text": text}
    return answer(reading.find(here, who, reading.convert_filters(values), after))


@router.get("/trajectories/facets")
def facets(here: Here, who: Signed) -> Response:
    """What they can be filtered by."""
    return answer(visible.facets(here, who))


@router.get("/trajectories/{trajectory_id}")
def show(
    trajectory_id: str,
    here: Here,
    who: Signed,
    version: Count | None = None,
    after: Count = 0,
    most: Annotated[int, Query(ge=1, le=200)] = TURNS,
) -> Response:
    """The tree of turns, a page of it; long texts are cut."""
    return answer(trajectory.get(here, who, trajectory_id, version, after=after, most=most))


@router.get("/trajectories/{trajectory_id}/record")
def record(trajectory_id: str, here: Here, who: Signed, version: Count | None = None) -> Response:
    """The whole record, as it is kept."""
    data, number = trajectory.as_json(here, who, trajectory_id, version)
    return attached(data, "application/json", f"{trajectory_id}-v{number}.json")


@router.get("/trajectories/{trajectory_id}/lineage")
def trace(trajectory_id: str, here: Here, who: Signed) -> Response:
    """Every dataset and adapter that it touched."""
    return answer(lineage.of_trajectory(here, who, trajectory_id))


@router.get("/trajectories/{trajectory_id}/turns/{node}/tokens")
def turn_tokens(
    trajectory_id: str,
    node: Node,
    here: Here,
    who: Signed,
    start: Count | None = None,
    version: Count | None = None,
) -> Response:
    """Prompt and answer of a turn, token by token."""
    return answer(tokens.tokens(here, who, trajectory_id, node, start=start, version=version))


@router.get("/trajectories/{trajectory_id}/turns/{node}/text")
def turn_text(
    trajectory_id: str,
    node: Node,
    here: Here,
    who: Signed,
    message: Count | None = None,
    version: Count | None = None,
) -> Response:
    """All of an answer, or of one message of its prompt."""
    text = trajectory.whole_text(here, who, trajectory_id, node, message=message, version=version)
    return plain(text, f"{trajectory_id}-turn-{node}.txt")


@router.post(
    "/trajectories/{trajectory_id}/corrections", status_code=201, **takes(acting.Correction)
)
def correct(
    trajectory_id: str,
    here: Here,
    who: Signed,
    ask: Annotated[acting.Correction, Depends(body_of(acting.Correction))],
) -> Response:
    """Say what an answer should have been; it becomes feedback."""
    return answer(acting.correct(here, who, trajectory_id, ask), 201)


@router.post("/trajectories/{trajectory_id}/judgements", status_code=201, **takes(acting.Judgement))
def judge(
    trajectory_id: str,
    here: Here,
    who: Signed,
    ask: Annotated[acting.Judgement, Depends(body_of(acting.Judgement))],
) -> Response:
    """Say how a turn, or the whole, turned out; it becomes feedback."""
    return answer(acting.judge(here, who, trajectory_id, ask), 201)


@router.get("/adapters/{digest}/lineage")
def adapter(digest: str, here: Here, who: Signed, after: str = "") -> Response:
    """What made an adapter; the trajectories of its dataset 50 at a time."""
    return answer(adapter_lineage.of_adapter(here, who, digest, after))


def plain(text: str, name: str) -> Response:
    """User or model text as it is, never as a page."""
    data = text.encode("utf-8", "replace")
    if len(data) > ATTACHED_FROM:
        return attached(data, "text/plain; charset=utf-8", name)
    return Response(data, media_type="text/plain; charset=utf-8", headers=_NOSNIFF)


def attached(data: bytes, media_type: str, name: str) -> Response:
    """A file to keep."""
    safe = "".join(one for one in name if one.isascii() and (one.isalnum() or one in "-._"))
    kept = {"content-disposition": f'attachment; filename="{safe[:120]}"'}
    return Response(data, media_type=media_type, headers=kept | _NOSNIFF)


_NOSNIFF = {"x-content-type-options": "nosniff"}
