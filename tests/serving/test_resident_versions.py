"""Which versions are loaded: champion, the one before it, guests, and what a restart finds."""

import signal
import time

import openai
import pytest

from appliance.core.digests import Digest, short
from tests.serving.asking import ask, generation
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say, wait_for_key
from tests.serving.engine_simulator import EngineSimulator


def test_only_champion_and_previous_stay_resident(
    appliance: Appliance, gateway: GatewayProcess, engine: EngineSimulator, adapters: list[Digest]
) -> None:
    for adapter in adapters[3:7]:
        gateway.release(appliance, adapter)
    deadline = time.monotonic() + 5
    while set(engine.holders) != set(adapters[5:7]):
        assert time.monotonic() < deadline, engine.holders
        time.sleep(0.02)
    assert set(gateway.admin("GET", "/health")["resident"]) == set(adapters[5:7])


def test_a_version_is_released_only_when_its_last_request_ends(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    gateway.release(appliance, adapters[4])
    stream = client.chat.completions.create(
        model=ALIAS, messages=say("slow " * 60, 0.01), stream=True
    )
    first = next(iter(stream))
    gateway.release(appliance, adapters[5])
    gateway.release(appliance, adapters[6])
    assert adapters[4] in engine.holders
    assert gateway.admin("GET", "/health")["under_way"] == {adapters[4]: 1}
    rest = list(stream)
    assert {chunk.system_fingerprint for chunk in [first, *rest]} == {short(adapters[4])}
    deadline = time.monotonic() + 5
    while adapters[4] in engine.holders:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_exact_version_of_ours_is_loaded_on_demand(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    gateway.release(appliance, adapters[0])
    gateway.release(appliance, adapters[1])
    candidate = appliance.add_adapter(102)
    with pytest.raises(openai.NotFoundError):  # trained, but neither released nor in a round
        ask(client, f"{ALIAS}@{candidate}")
    appliance.add_round(candidate)
    assert ask(client, f"{ALIAS}@{candidate}") == f"I am {short(candidate)}"
    assert ask(client, f"{ALIAS}@{adapters[0]}") == f"I am {short(adapters[0])}"
    assert ask(client, f"{ALIAS}@base") == "I am base"
    # Guests make room for one another and for a release: the engine has four slots.
    for guest in adapters[3:6]:
        assert ask(client, f"{ALIAS}@{guest}") == f"I am {short(guest)}"
    gateway.release(appliance, adapters[6])
    assert ask(client) == f"I am {short(adapters[6])}"


def test_an_exact_version_is_vetted_like_a_release(
    appliance: Appliance, gateway: GatewayProcess, engine: EngineSimulator, client: openai.OpenAI
) -> None:
    secret = appliance.add_adapter(103, label="secret")
    appliance.add_round(secret)
    with pytest.raises(openai.PermissionDeniedError, match="label"):
        ask(client, f"{ALIAS}@{secret}")
    wrong = appliance.add_adapter(104)
    appliance.add_round(wrong)
    engine.noop.add(wrong)
    try:
        with pytest.raises(openai.APIStatusError, match="not what was trained"):
            ask(client, f"{ALIAS}@{wrong}")
    finally:
        engine.noop.clear()
    assert wrong not in gateway.admin("GET", "/releases")["resident"]


def test_a_turn_is_labelled_at_least_as_its_adapter(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    secret, _ = appliance.add_key(exact=True, label="public")
    wait_for_key(gateway, secret)
    appliance.add_round(adapters[7])
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
        said = {
            model: client.chat.completions.create(model=f"{ALIAS}@{model}", messages=say("x")).id
            for model in ("base", adapters[7])
        }
    labels = {model: appliance.turns(turn)[0].label for model, turn in said.items()}
    assert labels == {"base": "public", adapters[7]: "internal"}


def test_a_dead_engine_is_a_503_and_the_gateway_lives(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    gateway.release(appliance, adapters[3])
    engine.stop()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"
    engine.start()
    # It has forgotten its adapters; the first request brings the champion back.
    assert ask(client) == f"I am {short(adapters[3])}"


def test_a_restart_replays_the_journal(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    before = generation(gateway)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    assert generation(gateway) == before
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=client.api_key, max_retries=0
    ) as client:
        assert ask(client) == f"I am {short(adapters[2])}"
    gateway.admin("POST", "/rollback", {"actor": "ada"})
    assert gateway.admin("GET", "/releases")["adapter"] == adapters[1]
