"""What no proof stands behind answers nobody; and what waits for a proof holds up no kill."""

import asyncio
import threading
import time
from collections.abc import Iterator

import openai
import pytest

from appliance.core.digests import Digest, short
from appliance.engine.client import Engine
from tests.serving import engine_simulator
from tests.serving.asking import ask, generation, wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess
from tests.serving.engine_simulator import EngineSimulator, Score, Scores
from tests.serving.rolling import entries


class Scoring:
    """What the engine's scores cost, and how many there were."""

    delay_s = 0.0
    count = 0


@pytest.fixture
def scoring(engine: EngineSimulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scoring]:
    scoring, score = Scoring(), engine_simulator._Port.score

    async def slow(port: engine_simulator._Port, wanted: Score) -> Scores:
        scoring.count += 1
        for _ in range(round(scoring.delay_s * 50)):
            await asyncio.sleep(0.02 if scoring.delay_s else 0)
        return await score(port, wanted)

    monkeypatch.setattr(engine_simulator._Port, "score", slow)
    yield scoring
    scoring.delay_s = 0.0
    engine.weights.clear()


def release_slowly(
    appliance: Appliance, gateway: GatewayProcess, scoring: Scoring, adapter: Digest
) -> tuple[threading.Thread, list[str]]:
    """A release whose proof is under way, and what becomes of it."""
    told: list[str] = []

    def release() -> None:
        try:
            told.append(gateway.release(appliance, adapter)["release"]["reason"])
        except RuntimeError as error:
            told.append(str(error.args[0]))

    before, scoring.delay_s = scoring.count, 60.0
    thread = threading.Thread(target=release)
    thread.start()
    wait_until(lambda: scoring.count > before)
    return thread, told


@pytest.mark.parametrize("act", ["kill", "rollback"])
def test_a_kill_and_a_rollback_do_not_wait_for_a_release(
    appliance: Appliance,
    gateway: GatewayProcess,
    client: openai.OpenAI,
    adapters: list[Digest],
    scoring: Scoring,
    act: str,
) -> None:
    gateway.release(appliance, adapters[0])
    before = generation(gateway)
    thread, told = release_slowly(appliance, gateway, scoring, adapters[1])
    began = time.monotonic()
    gateway.admin("POST", f"/{act}", {"actor": "ada", "reason": "now"})
    assert time.monotonic() - began < 2
    assert ask(client) == "I am base"
    scoring.delay_s = 0.0
    thread.join(70)
    # What was being proven meanwhile lost: somebody else has moved the alias.
    assert told == ["409"]
    assert [entry.reason for entry in entries(gateway)[before:]] == [act]
    assert ask(client) == "I am base"


def test_nobody_gets_an_answer_while_the_version_is_being_proven(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
    scoring: Scoring,
) -> None:
    appliance.add_round(adapters[2])
    engine.weights[adapters[2]] = adapters[3]
    scoring.delay_s = 1.0
    told: list[object] = []

    def visit(wait_s: float) -> None:
        time.sleep(wait_s)
        try:
            told.append(ask(client, f"{ALIAS}@{adapters[2]}"))
        except openai.APIStatusError as error:
            told.append(error.status_code)

    threads = [threading.Thread(target=visit, args=(wait_s,)) for wait_s in (0, 0.3, 0.6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 3
    assert all(isinstance(one, int) and one >= 400 for one in told), told
    wait_until(lambda: adapters[2] not in engine.holders)
    engine.weights.clear()
    scoring.delay_s = 0.0
    assert ask(client, f"{ALIAS}@{adapters[2]}") == f"I am {short(adapters[2])}"


def test_what_somebody_else_loaded_after_a_restart_is_not_proven(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
    scoring: Scoring,
) -> None:
    gateway.release(appliance, adapters[6])
    assert ask(client) == f"I am {short(adapters[6])}"
    engine.stop()
    engine.weights[adapters[6]] = adapters[5]
    engine.start()
    # Evaluation was first, so the engine says that it has what the gateway had proven.
    Engine(engine.path).prepare(adapters[6], "evaluation")
    for _ in range(5):
        with pytest.raises(openai.InternalServerError, match="not what was trained") as caught:
            ask(client)
        assert caught.value.status_code == 503
    engine.weights.clear()
    assert ask(client) == f"I am {short(adapters[6])}"
    assert engine.holders[adapters[6]] == {"evaluation", "serving"}
    Engine(engine.path).release(None, "evaluation")
    settled = scoring.count
    assert ask(client) == f"I am {short(adapters[6])}"
    assert scoring.count == settled


def test_a_restart_that_no_request_meets_is_seen_all_the_same(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    adapters: list[Digest],
    scoring: Scoring,
) -> None:
    gateway.release(appliance, adapters[7])
    before = scoring.count
    engine.stop()
    engine.start()
    Engine(engine.path).prepare(adapters[7], "evaluation")
    wait_until(lambda: "serving" in engine.holders[adapters[7]])
    wait_until(lambda: scoring.count > before)
    Engine(engine.path).release(None, "evaluation")


def test_an_engine_that_was_started_again_is_proven_again(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
    scoring: Scoring,
) -> None:
    gateway.release(appliance, adapters[4])
    engine.stop()
    engine.weights[adapters[4]] = adapters[5]
    before = scoring.count
    engine.start()
    for _ in range(5):
        with pytest.raises(openai.InternalServerError, match="not what was trained") as caught:
            ask(client)
        assert caught.value.status_code == 503
    assert scoring.count > before
    # What it says is right again: it is loaded anew, and proven.
    engine.weights.clear()
    assert ask(client) == f"I am {short(adapters[4])}"
    settled = scoring.count
    assert ask(client) == f"I am {short(adapters[4])}"
    assert scoring.count == settled
