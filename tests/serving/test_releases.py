"""Releases through the private API: proven, approved, swapped under load, undone, killed."""

import signal
import threading
import time
from typing import Any

import openai
import pytest

from appliance.core import audit
from appliance.core.adapters import WEIGHTS
from appliance.core.digests import Digest, digest_bytes, short
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say, wait_for_key
from tests.serving.engine_simulator import EngineSimulator


@pytest.fixture
def agent(appliance: Appliance, gateway: GatewayProcess) -> Any:
    secret, _ = appliance.add_key(exact=True)
    wait_for_key(gateway, secret)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def adapters(appliance: Appliance) -> list[Digest]:
    return [appliance.add_adapter(seed) for seed in range(8)]


def ask(client: openai.OpenAI, model: str = ALIAS) -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "who are you?"}]
    )
    return str(answer.choices[0].message.content)


def acts(appliance: Appliance) -> list[str]:
    with appliance.database.read() as connection:
        assert audit.verify(connection) > 0
        return [entry.act for entry in audit.entries(connection)]


def generation(gateway: GatewayProcess) -> int:
    return int(gateway.admin("GET", "/releases")["generation"])


def test_a_release_is_served_and_audited(
    appliance: Appliance, gateway: GatewayProcess, agent: openai.OpenAI, adapters: list[Digest]
) -> None:
    assert ask(agent) == "I am base"
    answer = gateway.release(appliance, adapters[0])
    assert answer["probe"]["trainer"] == 0
    assert answer["release"]["approvals"]
    raw = agent.chat.completions.with_raw_response.create(model=ALIAS, messages=say("x"))
    assert raw.headers["x-espalier-adapter"] == adapters[0]
    assert raw.parse().system_fingerprint == short(adapters[0])
    assert appliance.turns(raw.parse().id)[0].adapter == adapters[0]
    assert acts(appliance)[-1] == "alias.release"


def test_rollback_goes_back_at_once_and_only_once(
    appliance: Appliance, gateway: GatewayProcess, agent: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    answer = gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "worse"})
    assert answer["release"]["adapter"] == adapters[1]
    assert answer["ms"] < 500
    assert ask(agent) == f"I am {short(adapters[1])}"
    with pytest.raises(RuntimeError, match="nothing to roll back"):
        gateway.admin("POST", "/rollback", {"actor": "ada"})
    # The one that was taken away is still resident; serving it again is a release.
    gateway.release(appliance, adapters[2])
    assert ask(agent) == f"I am {short(adapters[2])}"
    assert "alias.rollback" in acts(appliance)


def test_the_kill_switch_serves_the_base(
    appliance: Appliance, gateway: GatewayProcess, agent: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[0])
    gateway.admin("POST", "/kill", {"actor": "ada", "reason": "now"})
    assert ask(agent) == "I am base"
    with pytest.raises(RuntimeError, match="nothing to roll back"):
        gateway.admin("POST", "/rollback", {"actor": "ada"})
    assert acts(appliance)[-1] == "alias.kill"


def test_what_is_served_already_is_not_released_again(
    appliance: Appliance, gateway: GatewayProcess, agent: openai.OpenAI, adapters: list[Digest]
) -> None:
    """It would stand before itself in the journal, with nothing left to roll back to."""
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    with pytest.raises(RuntimeError, match="already") as caught:
        gateway.release(appliance, adapters[2])
    assert caught.value.args[0] == 422
    gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "worse"})
    assert ask(agent) == f"I am {short(adapters[1])}"


def refuse(gateway: GatewayProcess, body: dict[str, Any]) -> tuple[int, str]:
    before = gateway.admin("GET", "/releases")
    with pytest.raises(RuntimeError) as caught:
        gateway.admin("POST", "/release", body)
    after = gateway.admin("GET", "/releases")
    assert (after["generation"], after["adapter"]) == (before["generation"], before["adapter"])
    return caught.value.args[0], caught.value.args[1]


def request(
    gateway: GatewayProcess, number: int, adapter: Digest, cast: list[Digest]
) -> dict[str, Any]:
    return {
        "round": number,
        "adapter": adapter,
        "expected_generation": generation(gateway),
        "approvals": cast,
        "actor": "test",
    }


@pytest.mark.parametrize(
    ("approvers", "status", "message"),
    [
        ((), 422, "0 of 2"),
        (("ada",), 422, "1 of 2"),
        (("ada", "cid"), 422, "by the round's author"),
    ],
    ids=["nobody", "one person", "the author"],
)
def test_too_few_approvals_change_nothing(
    appliance: Appliance,
    gateway: GatewayProcess,
    adapters: list[Digest],
    approvers: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    number, cast = appliance.add_round(adapters[3], approvers=approvers)
    got, text = refuse(gateway, request(gateway, number, adapters[3], cast))
    assert got == status
    assert message in text
    assert acts(appliance)[-1] == "alias.refused"


def test_approvals_are_looked_up_not_believed(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    number, _ = appliance.add_round(adapters[3], approvers=())
    cast = [digest_bytes(b"one"), digest_bytes(b"two")]
    assert "not in the database" in refuse(gateway, request(gateway, number, adapters[3], cast))[1]


def test_approvals_of_another_adapter_or_scorecard_count_for_nothing(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    number, _ = appliance.add_round(adapters[3], approvers=())
    other = digest_bytes(b"another scorecard")
    cast = [appliance.approve(number, adapters[3], name, other) for name in ("ada", "ben")]
    assert "0 of 2" in refuse(gateway, request(gateway, number, adapters[3], cast))[1]
    number, cast = appliance.add_round(adapters[4])
    assert "did not make" in refuse(gateway, request(gateway, number, adapters[3], cast))[1]


def test_a_rejection_outweighs_and_old_approvals_expire(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    number, cast = appliance.add_round(adapters[3])
    appliance.approve(number, adapters[3], "dan", digest_bytes(b"any"), "reject")
    assert "rejected by dan" in refuse(gateway, request(gateway, number, adapters[3], cast))[1]
    number, _ = appliance.add_round(adapters[3], approvers=())
    card = digest_bytes(f"scorecard of {adapters[3]}".encode())
    cast = [appliance.approve(number, adapters[3], n, card, at=5.0) for n in ("ada", "ben")]
    assert "expired" in refuse(gateway, request(gateway, number, adapters[3], cast))[1]


def test_a_stale_generation_loses(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    number, cast = appliance.add_round(adapters[3])
    body = {**request(gateway, number, adapters[3], cast), "expected_generation": 0}
    assert refuse(gateway, body)[0] == 409


def test_of_two_at_once_one_wins(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    now = generation(gateway)
    outcomes: list[int] = []

    def release(adapter: Digest) -> None:
        try:
            gateway.release(appliance, adapter, expected_generation=now)
            outcomes.append(200)
        except RuntimeError as error:
            outcomes.append(error.args[0])

    threads = [threading.Thread(target=release, args=(a,)) for a in adapters[6:8]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [200, 409]
    assert generation(gateway) == now + 1


def test_changed_bytes_are_refused(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> None:
    victim = appliance.add_adapter(100)
    path = appliance.home.adapter(victim) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    number, cast = appliance.add_round(victim)
    assert refuse(gateway, request(gateway, number, victim, cast))[0] == 422


def test_an_adapter_that_nobody_trained_here_is_refused(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    stranger = digest_bytes(b"stranger")
    number, cast = appliance.add_round(stranger)
    assert refuse(gateway, request(gateway, number, stranger, cast))[0] == 404


def test_a_label_above_the_endpoint_is_refused(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    secret = appliance.add_adapter(101, label="secret")
    number, cast = appliance.add_round(secret)
    assert "label" in refuse(gateway, request(gateway, number, secret, cast))[1]


def test_the_probe_catches_wrong_weights(
    appliance: Appliance, gateway: GatewayProcess, engine: EngineSimulator, adapters: list[Digest]
) -> None:
    number, cast = appliance.add_round(adapters[5])
    engine.weights[adapters[5]] = adapters[6]
    try:
        status, text = refuse(gateway, request(gateway, number, adapters[5], cast))
    finally:
        engine.weights.clear()
    assert status == 422
    assert "not what was trained" in text
    assert adapters[5] not in gateway.admin("GET", "/health")["resident"]


def test_the_probe_catches_an_adapter_without_effect(
    appliance: Appliance, gateway: GatewayProcess, engine: EngineSimulator, adapters: list[Digest]
) -> None:
    number, cast = appliance.add_round(adapters[5])
    engine.noop.add(adapters[5])
    try:
        status, text = refuse(gateway, request(gateway, number, adapters[5], cast))
    finally:
        engine.noop.clear()
    assert status == 422
    assert "not what was trained" in text


def test_swaps_under_load_fail_no_request(
    appliance: Appliance, gateway: GatewayProcess, agent: openai.OpenAI, adapters: list[Digest]
) -> None:
    """Streams stay on the version that they began with; not one request fails over 10 swaps."""
    stop = threading.Event()
    failures: list[str] = []
    across = [0]
    answers = [0]

    def stream() -> None:
        while not stop.is_set():
            try:
                seen = set()
                before = generation(gateway)
                for chunk in agent.chat.completions.create(
                    model=ALIAS, messages=say("a few words " * 4, 0.003), stream=True
                ):
                    seen.add(chunk.system_fingerprint)
                across[0] += generation(gateway) != before
                answers[0] += 1
                if len(seen) != 1:
                    failures.append(f"versions in one answer: {seen}")
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=stream) for _ in range(6)]
    for thread in threads:
        thread.start()
    for swap in range(10):
        gateway.release(appliance, adapters[2 + swap % 3])
        if swap == 5:
            gateway.admin("POST", "/rollback", {"actor": "ada"})
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert across[0] > 0
    assert answers[0] > 10


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
    agent: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    gateway.release(appliance, adapters[4])
    stream = agent.chat.completions.create(
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
    agent: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    gateway.release(appliance, adapters[0])
    gateway.release(appliance, adapters[1])
    candidate = appliance.add_adapter(102)
    with pytest.raises(openai.NotFoundError):  # trained, but neither released nor in a round
        ask(agent, f"{ALIAS}@{candidate}")
    appliance.add_round(candidate)
    assert ask(agent, f"{ALIAS}@{candidate}") == f"I am {short(candidate)}"
    assert ask(agent, f"{ALIAS}@{adapters[0]}") == f"I am {short(adapters[0])}"
    assert ask(agent, f"{ALIAS}@base") == "I am base"
    # Guests make room for one another and for a release: the engine has four slots.
    for guest in adapters[2:6]:
        assert ask(agent, f"{ALIAS}@{guest}") == f"I am {short(guest)}"
    gateway.release(appliance, adapters[6])
    assert ask(agent) == f"I am {short(adapters[6])}"


def test_an_exact_version_is_vetted_like_a_release(
    appliance: Appliance, gateway: GatewayProcess, engine: EngineSimulator, agent: openai.OpenAI
) -> None:
    secret = appliance.add_adapter(103, label="secret")
    appliance.add_round(secret)
    with pytest.raises(openai.PermissionDeniedError, match="label"):
        ask(agent, f"{ALIAS}@{secret}")
    wrong = appliance.add_adapter(104)
    appliance.add_round(wrong)
    engine.noop.add(wrong)
    try:
        with pytest.raises(openai.APIStatusError, match="not what was trained"):
            ask(agent, f"{ALIAS}@{wrong}")
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


def test_a_restart_replays_the_journal(
    appliance: Appliance, gateway: GatewayProcess, agent: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    before = generation(gateway)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    assert generation(gateway) == before
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=agent.api_key, max_retries=0
    ) as client:
        assert ask(client) == f"I am {short(adapters[2])}"
    gateway.admin("POST", "/rollback", {"actor": "ada"})
    assert gateway.admin("GET", "/releases")["adapter"] == adapters[1]


def test_a_dead_engine_is_a_503_and_the_gateway_lives(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    agent: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    gateway.release(appliance, adapters[3])
    engine.stop()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(agent)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"
    engine.start()
    # It has forgotten its adapters; the first request brings the champion back.
    assert ask(agent) == f"I am {short(adapters[3])}"
