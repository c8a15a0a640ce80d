"""A candidate in the shadow, then for a growing share of the sessions, then released or stopped."""

import signal
from collections.abc import Iterator

import openai
import pytest

from appliance.core.adapters import WEIGHTS
from appliance.core.digests import Digest, short
from policies.canary import group
from tests.serving.asking import generation, wait_until
from tests.serving.conftest import Appliance, GatewayProcess
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.rolling import details, entries, rollout, settle, visit, visits

SETTINGS = """
[rollout]
staged = true
stages = [20, 50]
shadow_requests = 12
stage_requests = 15
stage_minutes = 0
metrics = ["errors", "refusals", "longer", "feedback"]
"""
SORRY = "I'm sorry, I cannot help with that."


@pytest.fixture(scope="module")
def gateway(appliance: Appliance, engine: EngineSimulator) -> Iterator[GatewayProcess]:
    settle(appliance, SETTINGS)
    process = GatewayProcess(appliance)
    process.start()
    yield process
    assert process.stop() == 0, process.log


@pytest.fixture(autouse=True)
def nothing_tried(gateway: GatewayProcess) -> Iterator[None]:
    yield
    if rollout(gateway):
        gateway.admin("POST", "/rollback", {"actor": "test", "reason": "the test is over"})


def reach(client: openai.OpenAI, gateway: GatewayProcess, share: int) -> None:
    """Let sessions come until the candidate has this share."""
    for _ in visits(client, gateway):
        if rollout(gateway)["share"] == share:
            return
    raise AssertionError(f"it never had {share} %")


def restarted(gateway: GatewayProcess, client: openai.OpenAI) -> openai.OpenAI:
    gateway.stop(signal.SIGKILL)
    gateway.start()
    return client.with_options(base_url=f"{gateway.url}/v1", max_retries=5)


def test_a_good_candidate_goes_all_the_way(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    before = entries(gateway)[-1]
    answer = gateway.release(appliance, adapters[0])["release"]
    assert (answer["reason"], answer["adapter"]) == ("shadow", before.adapter)
    salt = answer["rollout"]["salt"]
    said = list(visits(client, gateway))

    written = entries(gateway)[before.generation :]
    assert [(e.reason, e.adapter, e.trying and e.trying.share) for e in written] == [
        ("shadow", None, 0),
        ("canary", None, 20),
        ("canary", None, 50),
        ("release", adapters[0], None),
    ]
    assert {entry.approvals for entry in written} == {tuple(answer["approvals"])}
    assert written[-1].previous is None

    # Shadows were asked for as batch work, and nobody saw their answers.
    shadows = [r for r in engine.requests if r.priority == "batch"]
    assert {r.adapter for r in shadows} == {adapters[0]}
    assert len(shadows) >= 12
    assert len(appliance.turns(said[0].turn_id)) == 1
    assert sum(e.kind == "turn" for e in appliance.events()) == len(said)

    # Whom the candidate answered can be told again from the journal alone.
    (key_id,) = {turn.who.key_id for turn in appliance.turns(said[0].turn_id)}
    others = [one for one in said if one.adapter == adapters[0]]
    assert len(others) > 15
    for one in others:
        assert group(salt, f"{key_id}/session/{one.session}", 50) == "candidate"


def test_a_candidate_that_refuses_is_stopped_before_anybody_sees_it(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    champion = entries(gateway)[-1].adapter
    gateway.release(appliance, adapters[1])
    said = list(visits(client, gateway, instead={adapters[1]: SORRY}))
    stopped = entries(gateway)[-1]
    assert (stopped.reason, stopped.adapter, stopped.approvals) == ("stop", champion, ())
    assert {one.adapter for one in said} == {champion or "base"}
    assert SORRY not in {one.text for one in said}

    detail = details(appliance, "alias.stop")[-1]
    evidence = detail["evidence"]
    assert detail["candidate"] == adapters[1]
    assert (evidence["metric"], evidence["candidate"], evidence["champion"]) == ("refusals", 1, 0)
    assert evidence["e"] >= evidence["limit"] == 4 / 0.05
    assert "empty or refuse" in detail["comment"]
    wait_until(lambda: adapters[1] not in engine.holders)


def test_what_only_users_notice_stops_it_as_well(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    champion = entries(gateway)[-1].adapter
    gateway.release(appliance, adapters[2])
    judged = 0
    for one in visits(client, gateway):
        if (rollout(gateway) or {"share": 0})["share"]:
            failed = one.adapter == adapters[2]
            body = {
                "target": {"turn_id": one.turn_id} if judged % 2 else {"session": one.session},
                "outcome": "failed" if failed else "ok",
            }
            client.post("/feedback", body=body, cast_to=object)
            judged += 1
    stopped = entries(gateway)[-1]
    assert (stopped.reason, stopped.adapter) == ("stop", champion)
    assert details(appliance, "alias.stop")[-1]["evidence"]["metric"] == "feedback"


def test_feedback_on_others_answers_counts_for_nothing(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[2])
    reach(client, gateway, 20)
    secret, _ = appliance.add_key()
    gateway.admin("POST", "/keys/reload")
    stranger = client.with_options(api_key=secret)
    for _ in range(30):
        body = {"target": {"turn_id": visit(client).turn_id}, "outcome": "failed"}
        stranger.post("/feedback", body=body, cast_to=object)
    pairs = {one["metric"]: one["pairs"] for one in rollout(gateway)["evidence"]}
    assert pairs["feedback"] == 0
    assert pairs["errors"] > 12


def test_one_move_at_a_time(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[3])
    stale = generation(gateway) - 1
    with pytest.raises(RuntimeError, match="is being moved") as caught:
        gateway.release(appliance, adapters[4])
    assert caught.value.args[0] == 409
    with pytest.raises(RuntimeError, match="expected generation"):
        gateway.release(appliance, adapters[4], expected_generation=stale)
    visit(client)


def test_a_rollback_takes_the_candidate_from_everybody_and_leaves_the_champion(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    champion = entries(gateway)[-1].adapter
    gateway.release(appliance, adapters[4])
    reach(client, gateway, 50)
    session = next(s.session for s in visits(client, gateway) if s.adapter == adapters[4])
    assert visit(client, session).adapter == adapters[4]
    moved = gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "users complain"})
    assert (moved["release"]["reason"], moved["release"]["adapter"]) == ("stop", champion)
    assert visit(client, session).adapter == (champion or "base")
    assert details(appliance, "alias.stop")[-1]["comment"] == "users complain"
    wait_until(lambda: adapters[4] not in engine.holders)


def test_the_kill_switch_ends_it(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[5])
    reach(client, gateway, 50)
    gateway.admin("POST", "/kill", {"actor": "ada", "reason": "now"})
    assert {visit(client).adapter for _ in range(10)} == {"base"}
    assert rollout(gateway) is None


def test_killed_anywhere_it_goes_on_from_the_journal(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[5])
    salt = entries(gateway)[-1].trying.salt  # type: ignore[union-attr]
    for share in (0, 20, 50):
        if share:
            reach(client, gateway, share)
        client = restarted(gateway, client)
        now = entries(gateway)[-1].trying
        assert now is not None
        assert (now.share, now.salt) == (share, salt)
    for one in visits(client, gateway):
        assert one.adapter in ("base", adapters[5])
    assert entries(gateway)[-1].reason == "release"
    assert visit(client).adapter == adapters[5]
    # The champion of before is there to go back to.
    client = restarted(gateway, client)
    gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "again"})
    assert visit(client).adapter == "base"


def test_a_candidate_that_is_not_fit_any_more_is_stopped_at_the_start(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI
) -> None:
    victim = appliance.add_adapter(300)
    champion = entries(gateway)[-1].adapter
    gateway.release(appliance, victim)
    gateway.stop(signal.SIGKILL)
    path = appliance.home.adapter(victim) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    gateway.start()
    wait_until(lambda: entries(gateway)[-1].reason == "stop")
    assert "not fit" in details(appliance, "alias.stop")[-1]["comment"]
    client = client.with_options(base_url=f"{gateway.url}/v1", max_retries=5)
    assert visit(client).adapter == (champion or "base")


def test_people_can_see_how_it_goes(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    client = client.with_options(base_url=f"{gateway.url}/v1", max_retries=5)
    gateway.release(appliance, adapters[6])
    for _ in range(3):
        visit(client)
    wait_until(lambda: rollout(gateway)["pairs"] == 3)
    now = rollout(gateway)
    assert (now["candidate"], now["stage"], now["needed"]) == (adapters[6], "shadow", 12)
    assert {one["metric"]: (one["pairs"], one["e"]) for one in now["evidence"]} == {
        "errors": (3, 1.0),
        "refusals": (3, 1.0),
        "longer": (3, 1.0),
        "feedback": (0, 1.0),
    }
    assert short(adapters[6]) in gateway.log
