"""Answers that break off: what the client has is in the log, once, and nothing is held for it."""

import asyncio
import http.client
import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, cast
from unittest.mock import AsyncMock

import openai
import pytest

from appliance.core.digests import digest_bytes
from appliance.core.errors import NotFoundError
from appliance.core.records import Turn
from appliance.engine.wire import Generate, Line
from serving.answers import Answer
from serving.exchange import Exchange, TapCounts
from serving.metrics import Metrics
from serving.openai.shapes import ChatShape
from serving.openai_errors import ApiError
from serving.quota import Charge
from serving.reply import Reply
from serving.under_way import Place, UnderWay
from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say

TEXT = "all of it"
ADAPTER = digest_bytes(b"an adapter")


class Ingest:
    """A log that never gets round to it."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def send_turn(self, turn: Turn, _: Any) -> "Future[None]":
        self.turns.append(turn)
        return Future()


class Engine:
    """Says `TEXT` a token at a time, and then has this happen to it."""

    def __init__(self, ids: list[int], error: Exception | None = None) -> None:
        self._ids = ids
        self._error = error
        self.asked = 0
        self.silent = False

    async def stream(self, _: Generate) -> AsyncGenerator[list[Line]]:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        for token in self._ids:
            yield [Line(index=0, ids=[token], logprobs=[-1.0])]
        if self._error is not None:
            raise self._error
        yield [Line(index=0, finish_reason="stop")]


class Case:
    """One streamed request in a process of its own making: no socket, no engine, no log."""

    def __init__(self, appliance: Appliance, error: Exception | None = None) -> None:
        ids = appliance.template.encode_text(TEXT)
        _, key = appliance.add_key()
        self.ingest = Ingest()
        self.counts = TapCounts()
        self.under_way = UnderWay(
            cast(Metrics, type("Uncounted", (), {"count": lambda *_: None})()),
            max_under_way=2,
            max_waiting=2,
        )
        self.versions = AsyncMock()
        self.versions.require_ready.return_value = ""
        self.sent: list[bytes] = []
        self.reads_only: int | None = None
        """Messages that the client takes; None is all of them."""
        self.place: Place | None = None
        self.exchange = Exchange(
            request_id="r1", key=key, label="internal", session=None, base=appliance.base.digest,
            adapter=None, template=None, messages=(), tools=(),
            generate=Generate(prompt_ids=[1], n=1, max_tokens=50, temperature=1.0, top_p=1.0,
                              top_k=0, seed=None, stop_ids=[], logprobs=True),
            answers=[Answer(appliance.template)], started_at=1.0,
        )  # fmt: skip
        self.shape = ChatShape(
            "m", appliance.template, logprobs=False, token_ids=False, usage=False
        )
        self.engine = Engine(ids, error)

        self.settled: list[tuple[int, int]] = []
        """Tokens that were charged: prompt, completion."""

    def settle(self, *tokens: int) -> None:
        """See Charge."""
        self.settled.append(tokens)  # type: ignore[arg-type] # the place settles with two

    async def answer(self) -> None:
        with self.under_way.enter(self.exchange.key, "chat") as self.place:
            self.place.carry(self.exchange, cast(Charge, self))
            reply = Reply(
                self.place, self.exchange, self.shape, cast(Any, nullcontext()),
                engine=cast(Any, self.engine), versions=cast(Any, self.versions),
                ingest=cast(Any, self.ingest), counts=self.counts, stream=True, headers={},
            )  # fmt: skip
            await reply({}, self._receive, self._send)

    @property
    def body(self) -> str:
        return b"".join(self.sent).decode()

    async def _receive(self) -> Any:
        await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        if len(self.sent) == self.reads_only:
            await asyncio.Event().wait()
        self.sent.append(message.get("body", b""))


async def killed_when(case: Case, condition: Callable[[], object]) -> None:
    task = asyncio.create_task(case.answer())
    for _ in range(1000):
        if condition():
            break
        await asyncio.sleep(0.001)
    assert case.place is not None
    case.place.kill(ApiError(403, "killed", kind="permission_error", code="killed"))
    await asyncio.wait_for(task, 3)


def test_an_error_that_nobody_thought_of_is_told_and_logged(appliance: Appliance) -> None:
    case = Case(appliance, ZeroDivisionError("in our own code"))
    asyncio.run(case.answer())
    last = json.loads(case.body.split("data: ")[-1])
    assert last["error"]["type"] == "server_error"
    assert "in our own code" not in case.body
    (turn,) = case.ingest.turns
    assert (turn.finish_reason, turn.answer["content"]) == ("error", TEXT)
    assert case.counts.failed == 1


def test_a_version_that_is_lost_twice_is_no_model_that_the_client_got_wrong(
    appliance: Appliance,
) -> None:
    case = Case(appliance, NotFoundError("the engine was started anew"))
    case.engine = Engine([], case.engine._error)
    case.exchange.adapter = ADAPTER
    with pytest.raises(ApiError, match="started anew") as refusal:
        asyncio.run(case.answer())
    assert (refusal.value.status, case.engine.asked) == (503, 2)
    case.versions.load_again.assert_awaited_once_with(ADAPTER, refused="")
    assert case.settled == [(0, 0)]


def test_a_kill_while_the_tap_waits_is_logged_once(appliance: Appliance) -> None:
    case = Case(appliance)
    asyncio.run(killed_when(case, lambda: case.ingest.turns))
    assert [turn.finish_reason for turn in case.ingest.turns] == ["stop"]
    assert '"code":"killed"' in case.body


def test_a_kill_frees_a_place_whose_client_does_not_read(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.reply.KILLED_SEND_S", 0.05)
    case = Case(appliance)
    case.reads_only = 3
    asyncio.run(killed_when(case, lambda: len(case.sent) == 3))
    assert case.under_way.total == 0
    (turn,) = case.ingest.turns
    assert turn.finish_reason == "error"
    assert TEXT.startswith(turn.answer["content"])


def test_who_is_killed_before_the_first_token_pays_for_the_prompt(appliance: Appliance) -> None:
    case = Case(appliance)
    case.engine.silent = True
    with pytest.raises(ApiError, match="killed"):
        asyncio.run(killed_when(case, lambda: case.engine.asked))
    assert case.settled == [(len(case.exchange.generate.prompt_ids), 0)]


def test_who_is_killed_before_the_engine_was_asked_pays_nothing(appliance: Appliance) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    case = Case(appliance)
    case.versions.require_ready.side_effect = never
    with pytest.raises(ApiError, match="killed"):
        asyncio.run(killed_when(case, lambda: case.versions.require_ready.called))
    assert case.settled == [(0, 0)]


@pytest.mark.parametrize("whole", [False, True], ids=["in-the-middle", "before-the-last-event"])
def test_who_reads_and_leaves_is_in_the_log(
    client: openai.OpenAI, gateway: GatewayProcess, appliance: Appliance, whole: bool
) -> None:
    secret = "the secret 0123456789"
    # The engine's end comes a step after the last text: that is when this client is gone.
    body = {"model": ALIAS, "messages": say(secret, 0.05), "stream": True}
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    headers = {"authorization": f"Bearer {client.api_key}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    read = ""
    while read != (secret if whole else secret[:5]):
        line = answer.readline()
        if line.startswith(b"data: "):
            read += json.loads(line[6:])["choices"][0]["delta"]["content"]
    answer.close()
    connection.close()
    request_id = str(answer.headers["x-request-id"])
    wait_until(lambda: appliance.turns(request_id))
    (turn,) = appliance.turns(request_id)
    assert turn.answer["content"].startswith(read)
    assert turn.finish_reason == "error"
