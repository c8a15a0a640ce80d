"""Releases through the private API: proven, approved, swapped under load, undone, killed."""

import threading
from typing import Any

import openai
import pytest

from appliance.core import audit
from appliance.core.adapters import WEIGHTS
from appliance.core.digests import Digest, digest_bytes, short
from tests.serving.asking import ask, generation
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator


def acts(appliance: Appliance) -> list[str]:
    with appliance.database.read() as connection:
        assert audit.verify(connection) > 0
        return [entry.act for entry in audit.entries(connection)]


def test_a_release_is_served_and_audited(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    assert ask(client) == "I am base"
    answer = gateway.release(appliance, adapters[0])
    assert answer["probe"]["trainer"] == 0
    assert answer["release"]["approvals"]
    raw = client.chat.completions.with_raw_response.create(model=ALIAS, messages=say("x"))
    assert raw.headers["x-espalier-adapter"] == adapters[0]
    assert raw.parse().system_fingerprint == short(adapters[0])
    assert appliance.turns(raw.parse().id)[0].adapter == adapters[0]
    assert acts(appliance)[-1] == "alias.release"


def test_rollback_goes_back_at_once_and_only_once(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    answer = gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "worse"})
    assert answer["release"]["adapter"] == adapters[1]
    assert answer["ms"] < 500
    assert ask(client) == f"I am {short(adapters[1])}"
    with pytest.raises(RuntimeError, match="nothing to roll back"):
        gateway.admin("POST", "/rollback", {"actor": "ada"})
    # The one that was taken away is still resident; serving it again is a release.
    gateway.release(appliance, adapters[2])
    assert ask(client) == f"I am {short(adapters[2])}"
    assert "alias.rollback" in acts(appliance)


def test_the_kill_switch_serves_the_base(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[0])
    gateway.admin("POST", "/kill", {"actor": "ada", "reason": "now"})
    assert ask(client) == "I am base"
    with pytest.raises(RuntimeError, match="nothing to roll back"):
        gateway.admin("POST", "/rollback", {"actor": "ada"})
    assert acts(appliance)[-1] == "alias.kill"


def test_what_is_served_already_is_not_released_again(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    """It would stand before itself in the journal, with nothing left to roll back to."""
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    with pytest.raises(RuntimeError, match="already") as caught:
        gateway.release(appliance, adapters[2])
    assert caught.value.args[0] == 422
    gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "worse"})
    assert ask(client) == f"I am {short(adapters[1])}"


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
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
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
                for chunk in client.chat.completions.create(
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
