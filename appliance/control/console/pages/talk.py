"""Talk: one prompt to several versions, their answers side by side."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from appliance.control.acting import code, talk
from appliance.control.acting.said import Answer
from appliance.control.console import talk_form
from appliance.control.console.asking import Form, Here, Reader, page
from appliance.control.console.render import render
from appliance.control.console.talk_form import State
from appliance.control.identity import Person
from appliance.control.reading import replay, suites
from appliance.control.reading import talk as reading
from appliance.control.steps import Ground
from appliance.core.errors import UsageError
from policies.access import Act

router = APIRouter()


@router.get("/talk")
def talk_page(
    request: Request,
    here: Here,
    who: Reader,
    trajectory: str = "",
    node: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    version: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    round_: Annotated[int | None, Query(alias="round", ge=0, lt=2**31)] = None,
    model: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The empty form; or one that is filled with a past turn, or with a round's two sides."""
    models = (model or [])[: talk.MAX_SIDES]
    if round_ is not None:
        models = reading.of_round(here, who, round_)
    state = State(models=models)
    if trajectory:
        past = replay.replay(here, who, trajectory, node or 0, version)
        state.take(past.prompt, past.sampling)
    return _page(request, here, who, state)


@router.post("/talk")
async def ask(request: Request, here: Here, who: Reader, form: Form) -> Response:
    """Ask, and wait for the answers; or go on with one of them; or have one more field."""
    state = talk_form.read(form)
    do, _, side = form.get("do", "ask").partition(":")
    if do == "continue":
        state.go_on(side)
    elif do == "ask":
        # A thread is held while the order and the page are made, none while versions answer.
        order = await asyncio.to_thread(_order, here, who, state)
        state.asked = state.prompt
        state.answers = await talk.collect(order)
    return await asyncio.to_thread(_page, request, here, who, state)


@router.post("/talk/stream")
def stream(here: Here, who: Reader, form: Form) -> Response:
    """The same answers, as they come: the script's way. At its end each side is a finished card,
    the very one that the page without the script shows."""
    state = talk_form.read(form)
    order = _order(here, who, state)
    state.asked = state.prompt
    return StreamingResponse(
        _events(order, state, _offers(here, who)), media_type="text/event-stream"
    )


@router.post("/talk/run")
def run(request: Request, here: Here, who: Reader, form: Form) -> Response:
    """Run the code of an answer in the sandbox and show what it did."""
    state = talk_form.read(form)
    side = state.side(form.get("side", ""))
    text = state.answers[side].text
    ran = code.run_code(here, who, code.code_of(text))
    if request.headers.get("x-part"):
        return Response(render("talk_ran.html", ran=ran), media_type="text/html")
    state.ran[side] = ran
    return _page(request, here, who, state)


def _order(here: Ground, who: Person, state: State) -> talk.Talk:
    messages, tools = replay.whole(here, who, state.prompt)
    if not messages:
        raise UsageError("there is nothing to ask", next_step="write a message")
    return talk.prepare(here, who, state.order(messages, tools))


async def _events(order: talk.Talk, state: State, offers: dict[str, Any]) -> AsyncIterator[bytes]:
    """Events of the stream; where a side ends, its card."""
    answers = [Answer(version=version) for version in order.versions]
    yield _event({"asked": msgspec.json.encode(state.asked).decode()})
    async for said in talk.stream(order):
        answers[said.side].hear(said)
        yield _event(said)
        if said.done or said.error:
            card = render(
                "talk_card.html", answer=answers[said.side], side=said.side, ran=None,
                num_sides=len(answers), **offers,
            )  # fmt: skip
            yield _event({"side": said.side, "card": card.decode()})


def _event(value: Any) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(value)


def _offers(here: Ground, who: Person) -> dict[str, Any]:
    """What a card needs to offer: the suites that a test can be kept in."""
    return {
        "suites": suites.in_force(here, who) if who.may(Act.KEEP_TEST) else [],
        "may_keep": who.may(Act.KEEP_TEST),
        "may_sign": who.may(Act.APPROVE),
    }


def _page(request: Request, here: Ground, who: Person, state: State) -> Response:
    offered = reading.versions(here, who, also=state.models)
    if not state.models:
        state.models = [version.model for version in offered[:2]]
    past: list[dict[str, Any]] = []
    if state.prompt.node is not None:
        past, _ = replay.whole(here, who, msgspec.structs.replace(state.prompt, messages=[]))
    known = {version.model: version for version in offered}
    for answer in state.answers:
        answer.version = known.get(answer.version.model, answer.version)
    return page(
        request, "talk.html", title="Talk", state=state, versions=offered, past=past,
        max_sides=talk.MAX_SIDES, **_offers(here, who),
    )  # fmt: skip
