"""Limits at the gateway's door, as real clients meet them, and a gateway that is full."""

import asyncio
import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import openai
import pytest

from appliance.core.database import Database
from appliance.core.digests import short
from serving.attribution import Attribution
from serving.command import main
from serving.keys import Key, Scope, add_key
from serving.limits import set_limits
from serving.metrics import Metrics
from serving.openai_errors import ApiError
from serving.under_way import Place, UnderWay
from serving.usage import load
from serving.version_names import VersionNames
from serving.versions import Versions
from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say, wait_for_key
from tests.serving.engine_simulator import EngineSimulator

Agent = Callable[..., tuple[openai.OpenAI, Key]]
MOST = 8


@pytest.fixture(scope="module")
def gateway(appliance: Appliance, engine: EngineSimulator) -> Iterator[GatewayProcess]:
    """A small one, with prices."""
    process = GatewayProcess(appliance)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ESPALIER__GATEWAY__MAX_UNDER_WAY", str(MOST))
        environment.setenv("ESPALIER__PRICES__PROMPT", "1000")
        environment.setenv("ESPALIER__PRICES__COMPLETION", "10000")
        process.start()
        yield process
        assert process.stop() == 0, process.log


@pytest.fixture
def agent(appliance: Appliance, gateway: GatewayProcess) -> Iterator[Agent]:
    """Makes a client with a key of its own team, with these limits."""
    with ExitStack() as clients:

        def make(*, max_retries: int = 0, **limits: float) -> tuple[openai.OpenAI, Key]:
            team = f"team{time.monotonic_ns()}"
            secret, key = add_key(
                appliance.database, team=team, project="p", agent="a", label="internal",
                exact=False, actor="test",
            )  # fmt: skip
            if limits:
                set_limits(appliance.database, Scope("team", team), limits, actor="test")
            gateway.admin("POST", "/keys/reload")
            client = openai.OpenAI(
                base_url=f"{gateway.url}/v1", api_key=secret, max_retries=max_retries
            )
            return clients.enter_context(client), key

        yield make


def ask(client: openai.OpenAI, text: str = "hello", **more: Any) -> Any:
    return client.chat.completions.create(model=ALIAS, messages=say(text), max_tokens=20, **more)


def cost(appliance: Appliance, text: str = "hello") -> int:
    """Tokens that `ask` uses."""
    return len(appliance.template.encode(say(text))) + len(text) + 1


def used(appliance: Appliance, key: Key) -> list[tuple[int, int, int, float]]:
    return [
        (s.requests, s.prompt_tokens, s.completion_tokens, s.units)
        for scopes, _, s in load(appliance.database, since_day=0)
        if key.scopes == scopes
    ]


def test_too_many_requests_in_a_minute(agent: Agent) -> None:
    client, key = agent(requests_per_minute=2)
    for left in ("1", "0"):
        raw = client.chat.completions.with_raw_response.create(model=ALIAS, messages=say("x"))
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        assert raw.headers["x-ratelimit-remaining-requests"] == left
        assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
    with pytest.raises(openai.RateLimitError, match="2 requests per minute") as caught:
        ask(client)
    assert caught.value.code == "rate_limit_exceeded"
    assert f"team {key.team!r}" in caught.value.message
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 30
    # What costs nothing is not counted.
    client.models.list()


def test_feedback_and_a_look_at_a_version_count_as_requests(agent: Agent) -> None:
    client, _ = agent(requests_per_minute=2)
    client.models.retrieve(ALIAS)
    answer = {"target": {"session": "s"}, "outcome": "ok"}
    client.post("/feedback", body=answer, cast_to=object)
    with pytest.raises(openai.RateLimitError):
        client.post("/feedback", body=answer, cast_to=object)
    with pytest.raises(openai.RateLimitError):
        client.models.retrieve(ALIAS)


def test_a_refused_request_counts_so_a_flood_of_them_ends(
    agent: Agent, gateway: GatewayProcess
) -> None:
    client, _ = agent(requests_per_minute=3, tokens_per_day=1)
    assert post_junk(gateway, client.api_key) == 400
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=say("x"))
    with pytest.raises(openai.RateLimitError, match="nothing fits"):
        ask(client)
    with pytest.raises(openai.RateLimitError, match="3 requests per minute"):
        ask(client)
    assert post_junk(gateway, client.api_key) == 429


def test_a_refused_request_pins_no_session(
    agent: Agent, appliance: Appliance, gateway: GatewayProcess
) -> None:
    client, key = agent(tokens_per_day=1)
    session = {"x-espalier-session": "s"}
    with pytest.raises(openai.RateLimitError):
        ask(client, extra_headers=session)
    adapter = appliance.add_adapter(1)
    gateway.release(appliance, adapter)
    set_limits(appliance.database, Scope("team", key.team), {"tokens_per_day": 9999}, actor="test")
    gateway.admin("POST", "/keys/reload")
    assert ask(client, extra_headers=session).system_fingerprint == short(adapter)
    gateway.admin("POST", "/kill", {"actor": "test", "reason": "the test is over"})


def test_a_refused_request_never_reaches_the_engine(agent: Agent, engine: EngineSimulator) -> None:
    client, _ = agent(requests_per_minute=1)
    ask(client)
    before = len(engine.requests)
    with pytest.raises(openai.RateLimitError):
        ask(client)
    assert len(engine.requests) == before


def test_without_limits_there_are_no_headers_about_them(agent: Agent) -> None:
    client, _ = agent()
    raw = client.chat.completions.with_raw_response.create(model=ALIAS, messages=say("x"))
    assert [name for name in raw.headers if name.startswith("x-ratelimit")] == []


def test_tokens_of_a_minute(agent: Agent, appliance: Appliance) -> None:
    one = cost(appliance)
    client, _ = agent(tokens_per_minute=one + 20)
    assert ask(client).usage.total_tokens == one
    with pytest.raises(openai.RateLimitError, match="tokens per minute"):
        ask(client)


def test_a_client_waits_for_a_rate_but_not_for_a_budget(agent: Agent, appliance: Appliance) -> None:
    hurried, _ = agent(requests_per_minute=60, max_retries=3)
    for _ in range(61):
        ask(hurried, "x")
    poor, _ = agent(tokens_per_day=1, max_retries=3)
    began = time.monotonic()
    with pytest.raises(
        openai.RateLimitError, match=r"budget of team .* 1 tokens per day"
    ) as caught:
        ask(poor)
    assert time.monotonic() - began < 0.4
    assert caught.value.code == "insufficient_quota"
    assert int(caught.value.response.headers["retry-after"]) <= 86_400


def test_units_count_by_the_prices(agent: Agent, appliance: Appliance) -> None:
    prompt = len(appliance.template.encode(say("hello")))
    client, key = agent(units_per_month=(prompt * 1000 + 20 * 10_000) / 1e6)
    ask(client)
    with pytest.raises(openai.RateLimitError, match="units per month"):
        ask(client)
    wait_until(lambda: used(appliance, key) != [])
    ((requests, fed, sampled, units),) = used(appliance, key)
    assert (requests, fed, sampled) == (1, prompt, 6)
    assert units == pytest.approx((prompt * 1000 + 6 * 10_000) / 1e6)


def test_anthropics_clients_read_it_too(agent: Agent, gateway: GatewayProcess) -> None:
    client, _ = agent(requests_per_minute=1)
    with anthropic.Anthropic(
        base_url=gateway.url, api_key=client.api_key, max_retries=0
    ) as speaking:
        ask(client)
        with pytest.raises(anthropic.RateLimitError, match="1 requests per minute") as caught:
            speaking.messages.create(model=ALIAS, max_tokens=5, messages=say("x"))  # type: ignore[arg-type]
    assert caught.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[call-overload, index]


def test_a_client_that_leaves_pays_for_what_was_sampled(
    agent: Agent, appliance: Appliance, engine: EngineSimulator
) -> None:
    client, key = agent()
    left = engine.left_early
    with client.chat.completions.create(
        model=ALIAS, messages=say("x" * 500, 0.01), stream=True
    ) as stream:
        next(iter(stream))
    wait_until(lambda: engine.left_early > left)
    wait_until(lambda: used(appliance, key) != [])
    ((requests, prompt, sampled, _),) = used(appliance, key)
    assert requests == 1
    assert prompt == len(appliance.template.encode(say("x" * 500, 0.01)))
    assert 0 < sampled < 500


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_token_pays_for_the_prompt(
    agent: Agent, appliance: Appliance, engine: EngineSimulator, stream: bool
) -> None:
    client, key = agent()
    asked, messages = len(engine.requests), say("x", wait_s=30.0)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(
            model=ALIAS, messages=messages, stream=stream
        )
    wait_until(lambda: used(appliance, key) != [])
    assert len(engine.requests) == asked + 1
    ((requests, prompt, sampled, _),) = used(appliance, key)
    assert (requests, sampled) == (1, 0)
    assert prompt == len(appliance.template.encode(messages))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_budget_survives_a_restart(
    agent: Agent, appliance: Appliance, gateway: GatewayProcess, number: int
) -> None:
    client, key = agent(tokens_per_day=3 * cost(appliance) + 14)
    ask(client)
    ask(client)
    if number == signal.SIGKILL:
        wait_until(lambda: [row[0] for row in used(appliance, key)] == [2])
    gateway.stop(number)
    gateway.start()
    assert [row[0] for row in used(appliance, key)] == [2]
    again = client.with_options(base_url=f"{gateway.url}/v1")
    wait_for_key(gateway, client.api_key)
    ask(again)
    with pytest.raises(openai.RateLimitError, match="tokens per day"):
        ask(again)


def test_a_full_gateway_says_so_before_it_reads_and_no_key_fills_it(
    agent: Agent, gateway: GatewayProcess
) -> None:
    greedy, _ = agent()
    modest, _ = agent()
    with ExitStack() as streams:

        def hold(client: openai.OpenAI) -> None:
            stream = client.chat.completions.create(
                model=ALIAS, messages=say("x" * 900, 0.02), stream=True
            )
            next(iter(streams.enter_context(stream)))

        for _ in range(MOST * 3 // 4):
            hold(greedy)
        with pytest.raises(openai.InternalServerError, match="full: 6 requests under way") as full:
            ask(greedy)
        assert (full.value.status_code, full.value.code) == (503, "overloaded")
        assert full.value.response.headers["retry-after"] == "1"
        assert post_junk(gateway, greedy.api_key) == 503
        assert ask(modest).choices[0].message.content == "hello"
        hold(modest)
        hold(modest)
        assert post_junk(gateway, modest.api_key) == 503
        assert gateway.admin("GET", "/health")["ready"] is True
    wait_until(lambda: post_junk(gateway, greedy.api_key) == 400)
    assert ask(greedy).choices[0].message.content == "hello"


def post_junk(gateway: GatewayProcess, secret: str) -> int:
    """The status that a body which does not parse gets."""
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        headers = {"authorization": f"Bearer {secret}"}
        connection.request("POST", "/v1/chat/completions", b"{", headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_those_that_wait_are_bounded_too(database: Database) -> None:
    async def run() -> None:
        versions = Versions(None)  # type: ignore[arg-type]
        metrics = Metrics(VersionNames(database, versions), Attribution(database))
        under_way = UnderWay(metrics, max_under_way=100, max_waiting=4)
        places: list[Place] = [under_way.enter(key, "chat") for _ in range(3)]
        with pytest.raises(ApiError, match="3 requests waiting"):
            under_way.enter(key, "chat")
        places[0].token()
        places[0].token()
        assert (under_way.total, under_way.waiting) == (3, 2)
        with under_way.enter(key, "chat"):
            assert (under_way.total, under_way.waiting) == (4, 3)
        for place in places:
            with place:
                pass
        assert (under_way.total, under_way.waiting) == (0, 0)

    key = add_key(
        database, team="t", project="p", agent="a", label="internal", exact=False, actor="test"
    )[1]
    asyncio.run(run())


def test_by_command(appliance: Appliance, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, code: int = 0) -> Any:
        assert main(["key", *words, "--home", str(appliance.home.root), "--json"]) == code
        return code or json.loads(capsys.readouterr().out.splitlines()[-1])

    made = run("add", "--team", "sales", "--tokens-per-day", "5000", "--metrics")
    assert made["metrics"] is True
    run("set", "--team", "sales", "--requests-per-minute", "10", "--units-per-month", "2.5")
    shown = run("set", "--team", "sales", "--units-per-month", "none")
    assert shown["requests_per_minute"] == 10
    assert shown["units_per_month"] is None
    limits = {(one["kind"], one["name"]): one for one in run("usage")["limits"]}
    assert limits["team", "sales"]["requests_per_minute"] == 10
    assert limits["key", made["key_id"]]["tokens_per_day"] == 5000
    run("set", "--team", "sales", code=2)
    run("set", "--team", "", "--tokens-per-day", "1", code=2)
    for wrong in (("--team", "sales", "--tokens-per-day=-1"), ("--tokens-per-day", "1")):
        with pytest.raises(SystemExit, match="2"):
            run("set", *wrong)
