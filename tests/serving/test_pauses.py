"""Pause and kill per key, agent and team: at the gateway's door, and in the middle of an answer."""

import json
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import anthropic
import openai
import pytest
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import NotFoundError, UsageError
from appliance.core.tables import pauses
from serving.command import main
from serving.keys import Key, Scope, add_key
from serving.pauses import Pauses, list_pauses, pause, resume
from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say, wait_for_key
from tests.serving.engine_simulator import EngineSimulator

Agent = Callable[[str, str], tuple[openai.OpenAI, Key]]


@pytest.fixture
def agent(appliance: Appliance, gateway: GatewayProcess) -> Iterator[Agent]:
    """Makes a client with a key of this team and agent."""
    clients: list[openai.OpenAI] = []

    def make(team: str, name: str) -> tuple[openai.OpenAI, Key]:
        secret, key = add_key(
            appliance.database, team=team, project="p", agent=name, label="internal", exact=False,
            actor="test",
        )  # fmt: skip
        wait_for_key(gateway, secret)
        clients.append(openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0))
        return clients[-1], key

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def order(appliance: Appliance, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """``espalier key WORDS``, as the operator types it; at its end the gateway knows."""

    def run(*words: str) -> Any:
        assert main(["key", *words, "--home", str(appliance.home.root), "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["told"] is True
        return told

    return run


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(model=ALIAS, messages=say("hello"))
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize("kind", ["key", "agent", "team"])
@pytest.mark.parametrize("verb", ["pause", "kill"])
def test_who_is_stopped_is_told_by_whom_and_why_until_it_is_resumed(
    agent: Agent, order: Callable[..., Any], kind: str, verb: str
) -> None:
    client, key = agent(f"{verb}-{kind}", f"wild-{verb}-{kind}")
    other, _ = agent("calm", "calm")
    scope = dict(zip(("key", "agent", "team"), key.scopes, strict=True))[kind]
    order(verb, f"--{kind}", scope.name, "--reason", "it deletes tickets")
    with pytest.raises(openai.PermissionDeniedError, match="it deletes tickets") as caught:
        ask(client)
    act = {"pause": "paused", "kill": "killed"}[verb]
    assert caught.value.code == act
    assert f"{kind} {scope.name!r} was {act} by os:" in caught.value.message
    assert time.strftime("%Y-%m-%d", time.gmtime()) in caught.value.message
    with pytest.raises(openai.PermissionDeniedError):
        client.models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client.post("/feedback", body={"target": {"session": "s"}}, cast_to=object)
    assert ask(other) == "hello"
    order("resume", f"--{kind}", scope.name, "--reason", "mended")
    assert ask(client) == "hello"


def test_a_pause_lets_what_is_under_way_end(agent: Agent, order: Callable[..., Any]) -> None:
    client, key = agent("p", "steady")
    with client.chat.completions.create(
        model=ALIAS, messages=say("x" * 40, 0.02), stream=True
    ) as stream:
        next(iter(stream))
        order("pause", "--key", key.key_id, "--reason", "r")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.endswith("x" * 30)


def test_a_kill_ends_a_stream_with_an_error_event_and_stops_the_engine(
    agent: Agent, order: Callable[..., Any], engine: EngineSimulator, appliance: Appliance
) -> None:
    client, _ = agent("k", "wild")
    other, _ = agent("calm", "calm")
    before = engine.left_early
    with (
        other.chat.completions.create(
            model=ALIAS, messages=say("y" * 100, 0.01), stream=True
        ) as calm,
        client.chat.completions.create(
            model=ALIAS, messages=say("x" * 900, 0.01), stream=True
        ) as stream,
    ):
        request_id = next(iter(stream)).id
        began = time.monotonic()
        order("kill", "--agent", "wild", "--reason", "runs wild")
        with pytest.raises(openai.APIError, match=r"agent .wild. was killed by .*runs wild"):
            list(stream)
        assert time.monotonic() - began < 2
        said = "".join(chunk.choices[0].delta.content or "" for chunk in calm if chunk.choices)
    assert said == "y" * 100
    wait_until(lambda: engine.left_early == before + 1)
    (turn,) = appliance.turns(request_id)
    assert turn.finish_reason == "error"
    order("resume", "--agent", "wild", "--reason", "r")


def test_a_kill_ends_an_answer_that_is_not_streamed_with_a_403(
    agent: Agent, order: Callable[..., Any], engine: EngineSimulator
) -> None:
    client, _ = agent("k2", "whole")
    refused: list[openai.APIStatusError] = []

    def run() -> None:
        try:
            client.chat.completions.create(model=ALIAS, messages=say("x" * 900, 0.01))
        except openai.APIStatusError as error:
            refused.append(error)

    before, served = engine.left_early, len(engine.requests)
    thread = Thread(target=run)
    thread.start()
    wait_until(lambda: len(engine.requests) > served)
    order("kill", "--team", "k2", "--reason", "r")
    thread.join(5)
    assert [(e.status_code, e.code) for e in refused] == [(403, "killed")]
    wait_until(lambda: engine.left_early == before + 1)


def test_anthropics_clients_are_told_too(
    agent: Agent, order: Callable[..., Any], gateway: GatewayProcess
) -> None:
    client, key = agent("an", "an")
    speaking = anthropic.Anthropic(base_url=gateway.url, api_key=client.api_key, max_retries=0)
    with (
        speaking,
        speaking.messages.stream(
            model=ALIAS,
            max_tokens=900,
            messages=say("x" * 900, 0.01),  # type: ignore[arg-type]
        ) as stream,
    ):
        next(iter(stream.text_stream))
        order("kill", "--key", key.key_id, "--reason", "no more")
        with pytest.raises(anthropic.APIStatusError, match="no more"):
            list(stream.text_stream)
        with pytest.raises(anthropic.PermissionDeniedError, match="no more"):
            speaking.messages.create(
                model=ALIAS,
                max_tokens=5,
                messages=say("x"),  # type: ignore[arg-type]
            )


def test_without_being_told_the_gateway_knows_within_seconds(
    agent: Agent, appliance: Appliance
) -> None:
    client, key = agent("q", "quiet")
    pause(appliance.database, Scope("key", key.key_id), killed=False, actor="ada", reason="because")

    def refused() -> bool:
        try:
            ask(client)
        except openai.PermissionDeniedError:
            return True
        return False

    began = time.monotonic()
    wait_until(refused)
    assert time.monotonic() - began < 2.5


def test_rules_that_cannot_be_read_leave_a_kill_its_effect(
    agent: Agent, appliance: Appliance, gateway: GatewayProcess
) -> None:
    client, key = agent("broken", "broken")
    with client.chat.completions.create(
        model=ALIAS, messages=say("x" * 900, 0.01), stream=True
    ) as stream:
        next(iter(stream))
        with appliance.database.write() as connection:
            connection.execute(sa.text("ALTER TABLE limits RENAME TO gone"))
            connection.execute(sa.text("ALTER TABLE keys RENAME TO lost"))
        try:
            with appliance.database.write() as connection:
                connection.execute(
                    sa.insert(pauses).values(
                        kind="key", name=key.key_id, killed=True, actor="ada", reason="r", at=1.0
                    )
                )
            with pytest.raises(openai.APIError, match="was killed by"):
                list(stream)
        finally:
            with appliance.database.write() as connection:
                connection.execute(sa.text("ALTER TABLE gone RENAME TO limits"))
                connection.execute(sa.text("ALTER TABLE lost RENAME TO keys"))
    assert "KeyRing stay as they were" in gateway.log
    resume(appliance.database, Scope("key", key.key_id), actor="ada", reason="r")


def make_key(database: Database) -> Key:
    return add_key(
        database, team="t", project="p", agent="a", label="internal", exact=False, actor="test"
    )[1]


def test_every_act_is_audited_with_its_reason(database: Database) -> None:
    key, scope = make_key(database), Scope("team", "t")
    pause(database, scope, killed=False, actor="ada", reason="one")
    pause(database, scope, killed=True, actor="ben", reason="two")
    resume(database, scope, actor="ada", reason="three")
    with database.read() as connection:
        found = [(e.actor, e.act, e.subject, e.detail) for e in audit.entries(connection)]
    assert found[1:] == [
        ("ada", "key.pause", "team 't'", {"reason": "one"}),
        ("ben", "key.kill", "team 't'", {"reason": "two"}),
        ("ada", "key.resume", "team 't'", {"reason": "three"}),
    ]
    assert Pauses(database).of(key) is None


def test_a_kill_stands_above_a_pause(database: Database) -> None:
    key = make_key(database)
    pause(database, Scope("key", key.key_id), killed=False, actor="ada", reason="one")
    pause(database, Scope("team", "t"), killed=True, actor="ada", reason="two")
    found = Pauses(database).of(key)
    assert found is not None
    assert found.killed


@pytest.mark.parametrize("kind", ["key", "agent", "team"])
def test_nobody_of_that_name_is_an_error(database: Database, kind: Any) -> None:
    make_key(database)
    with pytest.raises(NotFoundError):
        pause(database, Scope(kind, "typo"), killed=True, actor="ada", reason="r")
    with pytest.raises(NotFoundError):
        resume(database, Scope(kind, "t"), actor="ada", reason="r")


def test_a_pause_without_a_reason(database: Database) -> None:
    make_key(database)
    with pytest.raises(UsageError, match="expected a reason"):
        pause(database, Scope("team", "t"), killed=True, actor="ada", reason=" ")
    assert list_pauses(database) == []
