"""Talking to versions, over the real gateway and a simulated engine."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control import own_keys, supervisor
from appliance.control.acting import code as running
from appliance.control.acting import talk
from appliance.control.acting.said import Answer, Problem, Said
from appliance.control.acting.talk import Ask
from appliance.control.identity import Person
from appliance.control.reading import talk as reading
from appliance.control.steps import Ground
from appliance.core.digests import Digest, short
from appliance.core.errors import EspalierError, ForbiddenError, NotFoundError, UsageError
from appliance.core.tables import keys
from tests.control.talking import CARL
from tests.serving.conftest import ALIAS, Appliance, say
from tests.serving.engine_simulator import EngineSimulator


@pytest.fixture
def ground(served: Ground) -> Ground:
    return served


def ask(text: str | None = None, *models: str, delay_s: float = 0.0, **change: Any) -> Ask:
    messages = [{"role": "user", "content": "who?"}] if text is None else say(text, delay_s)
    return msgspec.convert({"models": models or [ALIAS], "messages": messages, **change}, Ask)


def answers(ground: Ground, order: Ask, person: Person = CARL) -> list[Answer]:
    return asyncio.run(talk.collect(talk.prepare(ground, person, order)))


def test_versions_answer_side_by_side_and_say_who_they_are(
    ground: Ground, released: Digest
) -> None:
    base, champion, exact = answers(
        ground, ask(None, f"{ALIAS}@base", ALIAS, f"{ALIAS}@{released}")
    )
    assert (base.text, base.adapter) == ("I am base", "base")
    assert champion.text == exact.text == f"I am {short(released)}"
    assert champion.adapter == exact.adapter == released
    assert champion.done is not None
    assert champion.done.finish_reason == "stop"


def test_the_stream_says_the_same_as_the_whole(ground: Ground) -> None:
    order = ask("grün 🌱", f"{ALIAS}@base", probabilities=True)
    heard: list[Said] = []

    async def listen() -> None:
        heard.extend([said async for said in talk.stream(talk.prepare(ground, CARL, order))])

    asyncio.run(listen())
    (whole,) = answers(ground, order)
    folded = Answer(version=whole.version)
    for said in heard:
        folded.hear(said)
    assert (folded.text, folded.tokens) == (whole.text, whole.tokens)
    assert folded.text == "grün 🌱"
    assert len([said for said in heard if said.text]) > 3, "it came in pieces"
    assert heard[0].adapter == "base"
    assert heard[-1].done is not None
    assert b'"text":"g"' in b"".join(map(msgspec.json.encode, heard))


def test_sampling_goes_to_the_engine_as_asked(ground: Ground, engine: EngineSimulator) -> None:
    order = ask("x", f"{ALIAS}@base", temperature=0.7, top_p=0.9, max_tokens=7, seed=5)
    answers(ground, order)
    last = engine.requests[-1]
    assert (last.temperature, last.top_p, last.max_tokens, last.seed, last.n) == (0.7, 0.9, 7, 5, 1)
    assert last.top_logprobs == 0


def test_probabilities_come_on_demand(ground: Ground) -> None:
    (with_them,) = answers(ground, ask("ab", f"{ALIAS}@base", probabilities=True))
    assert [token.text for token in with_them.tokens[:2]] == ["a", "b"]
    assert with_them.tokens[0].prob == pytest.approx(0.7788, abs=1e-4)
    assert with_them.tokens[0].top[0][0] == "a"
    (without,) = answers(ground, ask("ab", f"{ALIAS}@base"))
    assert without.tokens == []


def test_talk_is_logged_as_the_consoles_and_nobodys_else(
    ground: Ground, appliance: Appliance
) -> None:
    before = len(appliance.events())
    answers(ground, ask("logged", f"{ALIAS}@base"))
    (event,) = [e for e in appliance.events()[before:] if e.kind == "turn"]
    assert {n: event.record["who"][n] for n in ("team", "project", "agent")} == {
        "team": "console", "project": "talk", "agent": "console",
    }  # fmt: skip


def test_the_key_is_made_once_and_again_when_it_is_good_no_more(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ground.home.secrets / "console.key"
    path.unlink(missing_ok=True)
    first = own_keys.console_key(ground)
    assert own_keys.console_key(ground) == first == path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    with ground.database.write() as connection:
        connection.execute(sa.update(keys).values(revoked_at=1.0))
    second = own_keys.console_key(ground)
    assert second != first
    # The gateway does not know it yet; it is waited for.
    (answer,) = answers(ground, ask("after a new key", f"{ALIAS}@base"))
    assert answer.text == "after a new key"
    path.write_text("esp-forged")
    assert own_keys.console_key(ground) not in ("esp-forged", first)


@pytest.mark.parametrize(
    ("order", "error", "says"),
    [
        (ask(None, "gpt-4"), NotFoundError, "no version"),
        (ask(None, f"{ALIAS}@sha256:{'0' * 64}"), NotFoundError, "no version"),
        (ask(None, f"other@sha256:{'0' * 64}"), NotFoundError, "no version"),
        (ask(None, ALIAS, ALIAS), UsageError, "twice"),
    ],
)
def test_what_cannot_be_asked_is_refused_before(
    ground: Ground, order: Ask, error: type[EspalierError], says: str
) -> None:
    with pytest.raises(error, match=says):
        talk.prepare(ground, CARL, order)


def test_a_viewer_does_not_talk(ground: Ground) -> None:
    viewer = Person(name="vera", role="viewer", label="internal")
    for refused in (
        lambda: talk.prepare(ground, viewer, ask()),
        lambda: reading.versions(ground, viewer),
        lambda: running.run_code(ground, viewer, "print(1)"),
        lambda: reading.of_round(ground, viewer, 1),
    ):
        with pytest.raises(ForbiddenError):
            refused()


def test_a_version_above_ones_label_is_not_there(
    ground: Ground, appliance: Appliance, released: Digest
) -> None:
    public = Person(name="paul", role="operator", label="public")
    assert [v.model for v in reading.versions(ground, public)] == [f"{ALIAS}@base"]
    for model in (ALIAS, f"{ALIAS}@{released}"):
        with pytest.raises(NotFoundError):
            talk.prepare(ground, public, ask(None, model))


def test_an_alias_that_moves_meanwhile_shows_nothing_above_the_label(
    ground: Ground, released: Digest
) -> None:
    """Chosen while it meant the base; answered by an adapter that is not for these eyes."""
    public = Person(name="paul", role="operator", label="public")
    version = reading.Version(model=ALIAS, adapter=None, name="champion", label="public")
    order = talk.Talk(
        ground=ground,
        person=public,
        ask=ask(),
        versions=[version],
        secret=own_keys.console_key(ground),
    )
    (answer,) = asyncio.run(talk.collect(order))
    assert (answer.text, answer.adapter) == ("", "")
    assert answer.error is not None
    assert "above your label" in answer.error.message


def test_an_engine_that_stops_in_the_middle_says_so_and_keeps_what_came(
    ground: Ground, engine: EngineSimulator
) -> None:
    order = talk.prepare(ground, CARL, ask("slow " * 50, f"{ALIAS}@base", delay_s=0.02))
    folded = Answer(version=order.versions[0])

    async def listen() -> None:
        stopped = False
        async for said in talk.stream(order):
            folded.hear(said)
            if len(folded.text) > 10 and not stopped:
                stopped = True
                await asyncio.to_thread(engine.stop)

    try:
        asyncio.run(listen())
        assert folded.text.startswith("slow slow")
        assert folded.error is not None
        assert folded.error.next_step
        assert folded.done is None
        (again,) = answers(ground, ask("x", f"{ALIAS}@base"))
        assert again.error is not None, "and so does the next one, before its first word"
    finally:
        engine.start()


def test_one_side_that_cannot_answer_does_not_stop_the_other(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = talk.prepare(ground, CARL, ask("fine", f"{ALIAS}@base"))
    gone = reading.Version(model="gone", adapter=None, name="gone", label="public")
    both = msgspec.structs.replace(order, versions=[gone, order.versions[0]])
    broken, fine = asyncio.run(talk.collect(both))
    assert broken.error is not None
    assert "no model 'gone'" in broken.error.message
    assert (fine.text, fine.error) == ("fine", None)


def test_without_a_gateway_the_next_step_is_named(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = talk.prepare(ground, CARL, ask())
    monkeypatch.setattr(supervisor, "running", lambda _: None)
    (answer,) = asyncio.run(talk.collect(order))
    assert answer.error == Problem("the gateway is not running", "espalier up")
    monkeypatch.setattr(supervisor, "running", lambda _: {"gateway": ["127.0.0.1", 1]})
    (answer,) = asyncio.run(talk.collect(order))
    assert answer.error is not None
    assert "espalier status" in answer.error.next_step


def test_leaving_ends_the_answers(ground: Ground, engine: EngineSimulator) -> None:
    order = talk.prepare(ground, CARL, ask("long " * 200, f"{ALIAS}@base", delay_s=0.01))
    before = engine.left_early

    async def leave() -> None:
        said = talk.stream(order)
        async for one in said:
            if one.text:
                break
        await said.aclose()

    asyncio.run(leave())
    deadline = time.monotonic() + 5
    while engine.left_early == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
