"""A session keeps its version over a release; not over a rollback or a kill, nor for ever."""

import asyncio
import time
from typing import Any, cast

import msgspec
import openai
import pytest

from appliance.core.decisions import Release, Rollout
from appliance.core.digests import Digest, digest_bytes
from appliance.core.settings import Rollout as Settings
from policies.canary import group
from serving.canary import Canary
from serving.releases import Releases
from serving.routing import IDLE_S, MAX_AGE_S, Caller, Router
from serving.shadow import Shadow
from tests.serving.asking import ask
from tests.serving.conftest import Appliance, GatewayProcess
from tests.serving.rolling import settle, visit

OLD, NEW = digest_bytes(b"old"), digest_bytes(b"new")


def test_a_session_keeps_its_version_over_a_release(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[0])
    assert visit(client, "long work").adapter == adapters[0]
    gateway.release(appliance, adapters[1])
    assert visit(client, "long work").adapter == adapters[0]
    # Everybody else sees the release at once: new sessions, and who names none.
    assert visit(client, "new work").adapter == adapters[1]
    assert ask(client).startswith("I am")
    # Two releases later it is neither champion nor the one before.
    gateway.release(appliance, adapters[2])
    assert visit(client, "long work").adapter == adapters[2]


def test_a_rollback_and_a_kill_take_their_version_from_every_session(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[3])
    gateway.release(appliance, adapters[4])
    assert visit(client, "pinned").adapter == adapters[4]
    gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "worse"})
    assert visit(client, "pinned").adapter == adapters[3]
    gateway.admin("POST", "/kill", {"actor": "ada", "reason": "now"})
    assert visit(client, "pinned").adapter == "base"


def test_another_keys_session_of_the_same_name_is_another(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[5])
    assert visit(client, "shared name").adapter == adapters[5]
    gateway.release(appliance, adapters[6])
    secret, _ = appliance.add_key()
    gateway.admin("POST", "/keys/reload")
    other = client.with_options(api_key=secret)
    assert visit(other, "shared name").adapter == adapters[6]
    assert visit(client, "shared name").adapter == adapters[5]


def test_without_pins_everybody_sees_a_release_at_once(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    settle(appliance, "[gateway]\npin_sessions = false\n")
    gateway.stop()
    gateway.start()
    client = client.with_options(base_url=f"{gateway.url}/v1", max_retries=5)
    assert visit(client, "long work").adapter == adapters[6]
    gateway.release(appliance, adapters[7])
    assert visit(client, "long work").adapter == adapters[7]


class Alias:
    """What a router asks of Releases."""

    def __init__(self, *, share: int | None = None) -> None:
        self.standing = {OLD, NEW}
        rollout: dict[str, Any] = {}
        if share is not None:
            rollout = {"rollout": Rollout(candidate=NEW, share=share, salt="salt")}
        self.now = Release(
            alias="m", generation=1, adapter=OLD, previous=None, reason="canary", approvals=(),
            actor="test", at=0.0, **rollout,
        )  # fmt: skip

    def entry(self) -> Release:
        return self.now

    def stands(self, adapter: Digest | None) -> bool:
        return adapter in self.standing

    def move(self, **changes: Any) -> None:
        generation = self.now.generation + 1
        self.now = msgspec.structs.replace(self.now, generation=generation, **changes)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def router(alias: Alias, clock: Clock, **options: Any) -> Router:
    return Router(cast(Releases, alias), pin_sessions=True, clock=clock, **options)


def caller(session: str | None = "s", user: str | None = None, *texts: str) -> Caller:
    messages = tuple({"role": "user", "content": text} for text in texts or ("hello",))
    return Caller(key_id="key-1", session=session, user=user, messages=messages)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ([IDLE_S - 1], True),
        ([IDLE_S + 1], False),
        ([IDLE_S - 1] * 40, True),
        ([IDLE_S - 1] * int(MAX_AGE_S / IDLE_S + 2), False),
    ],
    ids=["soon again", "quiet for too long", "busy", "busy for more than a day"],
)
def test_how_long_a_pin_holds(steps: list[float], kept: bool) -> None:
    alias, clock = Alias(), Clock()
    routes = router(alias, clock)
    routes.route(caller())
    alias.move(adapter=NEW)
    for step in steps:
        clock.now += step
        found = routes.route(caller()).adapter
    assert found == (OLD if kept else NEW)


def test_the_table_of_pins_is_bounded() -> None:
    alias = Alias()
    routes = router(alias, Clock(), max_pins=2)
    for session in ("a", "b", "a", "c"):
        routes.route(caller(session))
    alias.move(adapter=NEW)
    found = [routes.route(caller(session)).adapter for session in ("a", "b")]
    assert found == [OLD, NEW]


def test_a_key_cannot_push_out_another_keys_pins() -> None:
    alias = Alias()
    routes = router(alias, Clock(), max_pins=10)
    routes.route(caller("mine"))
    for number in range(100):
        routes.route(msgspec.structs.replace(caller(f"s-{number}"), key_id="key-2"))
    alias.move(adapter=NEW)
    assert routes.route(caller("mine")).adapter == OLD
    loud = [msgspec.structs.replace(caller(f"s-{n}"), key_id="key-2") for n in (99, 0)]
    assert [routes.route(one).adapter for one in loud] == [OLD, NEW]


def test_what_does_not_stand_is_not_kept() -> None:
    alias = Alias()
    routes = router(alias, Clock())
    routes.route(caller())
    alias.move(adapter=NEW)
    alias.standing.discard(OLD)
    assert routes.route(caller()).adapter == NEW


def sided(share: int, side: str) -> Caller:
    found = (caller(f"fresh-{n}") for n in range(10_000))
    return next(one for one in found if group("salt", one.name, share) == side)


def test_whoever_came_before_the_stage_is_compared_with_nobody() -> None:
    alias = Alias(share=5)
    routes = router(alias, Clock())
    early = next(
        one
        for one in (caller(f"s-{n}") for n in range(10_000))
        if group("salt", one.name, 5) is None and group("salt", one.name, 25) == "candidate"
    )
    assert (routes.route(early).adapter, routes.route(early).side) == (OLD, None)
    alias.move(rollout=Rollout(candidate=NEW, share=25, salt="salt"))
    assert (routes.route(early).adapter, routes.route(early).side) == (OLD, None)
    fresh = sided(25, "candidate")
    assert (routes.route(fresh).adapter, routes.route(fresh).side) == (NEW, "candidate")
    control = sided(25, "champion")
    assert (routes.route(control).adapter, routes.route(control).side) == (OLD, "champion")


def test_without_a_header_the_bucket_alone_is_sticky() -> None:
    alias = Alias(share=25)
    routes = router(alias, Clock())
    for number in range(200):
        begin = caller(None, None, f"question {number}")
        later = caller(None, None, f"question {number}", "and then?")
        assert routes.route(begin).adapter == routes.route(later).adapter
        user = caller(None, f"user {number}")
        other = caller(None, f"user {number}", "something else")
        assert routes.route(user).adapter == routes.route(other).adapter
    assert begin.name != caller(None, None, "question 0").name


def test_a_conversation_is_told_by_how_it_began() -> None:
    system = {"role": "system", "content": "be kind"}
    hello = {"role": "user", "content": "hello"}
    told = {"role": "assistant", "content": "hi"}
    first = Caller(key_id="k", session=None, user=None, messages=(system, hello))
    later = Caller(key_id="k", session=None, user=None, messages=(system, hello, told, hello))
    assert first.name == later.name
    assert (first.begins, later.begins) == (True, False)


def test_a_full_stage_waits_for_its_time() -> None:
    """And then goes on by itself, though nobody asks any more."""
    advanced: list[float] = []

    class Watched(Alias):
        alias = "m"
        ready = True

        async def advance(self, seen: Release) -> None:
            advanced.append(time.time() - seen.at)

    async def run() -> None:
        releases = cast(Releases, Watched(share=5))
        now = msgspec.structs.replace(releases.entry(), at=time.time())
        cast(Watched, releases).now = now
        settings = Settings(stage_requests=1, stage_minutes=0.5 / 60)
        canary = Canary(releases, cast(Shadow, None), settings)
        task = asyncio.create_task(canary.run())
        canary._watches(now)
        for side in ("candidate", "champion"):
            canary._trial.observe(side, side, {"errors": 0.0})  # type: ignore[arg-type]
        canary._look()
        await asyncio.sleep(0.3)
        assert advanced == []
        await asyncio.sleep(0.6)
        task.cancel()

    asyncio.run(run())
    assert advanced
    assert advanced[0] >= 0.5
