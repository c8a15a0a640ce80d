"""Talking to versions, and running what they wrote."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from fastapi.responses import Response, StreamingResponse
from msgspec import Meta

from appliance.control.acting import code, talk
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from appliance.control.reading.talk import versions

router = APIRouter(tags=["talk"])


class Code(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Python code to run in the sandbox."""

    code: Annotated[str, Meta(max_length=code.CODE_MAX_BYTES)]


@router.get("/talk/versions")
def list_versions(here: Here, who: Signed) -> Response:
    """The versions that one can talk to."""
    return answer(versions(here, who))


@router.post("/talk", **takes(talk.Ask))
async def ask(
    here: Here, who: Signed, ask: Annotated[talk.Ask, Depends(body_of(talk.Ask))]
) -> Response:
    """The answers of all versions, once they are whole."""
    # A thread is held while the order is made, none while versions answer.
    return answer(await talk.collect(await asyncio.to_thread(talk.prepare, here, who, ask)))


@router.post("/talk/stream", **takes(talk.Ask))
def stream(
    here: Here, who: Signed, ask: Annotated[talk.Ask, Depends(body_of(talk.Ask))]
) -> Response:
    """The answers as they come: server-sent events, one JSON object each."""
    order = talk.prepare(here, who, ask)
    return StreamingResponse(talk.events(order), media_type="text/event-stream")


@router.post("/talk/run", **takes(Code))
def run(here: Here, who: Signed, ask: Annotated[Code, Depends(body_of(Code))]) -> Response:
    """Run Python code in the box and say what it did."""
    return answer(code.run_code(here, who, ask.code))
