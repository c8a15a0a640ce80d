"""Replicas that come and go while an adapter is being loaded or proven: none joins unproven."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.core.adapters import CONFIG, WEIGHTS, content_digest
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry
from appliance.engine.vllm import member
from appliance.engine.vllm.fleet import Fleet
from appliance.engine.vllm.launch import Launch
from appliance.engine.vllm.member import Member
from appliance.engine.wire import Score
from tests.engine.vllm_simulator import VllmSimulator

ROWS = [[1, 5, 9, 13], [2, 4, 8]]


class Ground:
    """A fleet of two replicas that serve, and an adapter that it has not seen."""

    def __init__(self, fleet: Fleet, members: list[Member], adapter: Digest) -> None:
        self.fleet, self.adapter = fleet, adapter
        self._members = members

    @property
    def serving(self) -> list[bool]:
        return [one.serving for one in self._members]

    def says(self, index: int) -> str:
        return self._members[index].says

    async def prove(self) -> None:
        await self.fleet.score(Score(ids=ROWS, adapter=self.adapter, every_replica=True))


Story = Callable[[Ground, VllmSimulator, VllmSimulator], Coroutine[Any, Any, None]]


@pytest.fixture
def play(
    home: Home, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Story], None]:
    """Plays a story with a fleet and its two replicas."""
    monkeypatch.setattr(member, "_LOOK_S", 0.01)
    monkeypatch.setattr(member, "_BACKOFF_S", (0.01,))
    base = Registry(home).add_directory(model_folder, "small", "made by a test")
    adapter = write_adapter(home, base)

    async def with_fleet(story: Story) -> None:
        async with AsyncExitStack() as stack:
            sockets = [tmp_path / f"vllm-{index}" for index in range(2)]
            one, other = [
                await stack.enter_async_context(VllmSimulator(socket)) for socket in sockets
            ]
            members = [
                Member(index, Launch([], {}, socket), None) for index, socket in enumerate(sockets)
            ]
            fleet = await stack.enter_async_context(started(members, home, base))
            ground = Ground(fleet, members, adapter)
            await wait_until(lambda: ground.serving == [True, True])
            await asyncio.wait_for(story(ground, one, other), 30)

    return lambda story: asyncio.run(with_fleet(story))


@asynccontextmanager
async def started(members: list[Member], home: Home, base: Base) -> AsyncGenerator[Fleet, None]:
    fleet = Fleet(
        members, home=home, base=base, slots=2, context_length=512, max_rank=8,
        dtype="float32", facts={},
    )  # fmt: skip
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()


def write_adapter(home: Home, base: Base) -> Digest:
    folder = home.adapters / "new"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"of no meaning here")
    (folder / CONFIG).write_text('{"r": 4}')
    adapter = content_digest(folder, base.digest)
    folder.rename(home.adapter(adapter))
    return adapter


async def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


async def hold_up(replica: VllmSimulator, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Begin this work, until it stands still at this replica."""
    before = replica.num_begun
    replica.go_on.clear()
    task = asyncio.create_task(work)
    await wait_until(lambda: replica.num_begun > before)
    return task


async def die(ground: Ground, replica: VllmSimulator) -> None:
    replica.die()
    await wait_until(lambda: ground.serving == [True, False])


async def come_back(ground: Ground, replica: VllmSimulator) -> None:
    """Up to the point at which it would join, and long enough to have done it."""
    replica.come_back()
    await wait_until(lambda: ground.says(1) == "warming up" and replica.scored)
    await asyncio.sleep(0.2)


def test_a_replica_with_other_weights_does_not_join_while_they_are_proven(
    play: Callable[[Story], None],
) -> None:
    async def story(ground: Ground, one: VllmSimulator, other: VllmSimulator) -> None:
        await ground.fleet.prepare(ground.adapter, "test")
        await die(ground, other)
        proof = await hold_up(one, ground.prove())
        other.wrong = True
        await come_back(ground, other)
        assert ground.serving == [True, False]
        one.go_on.set()
        await proof
        # What the other one said is known now, and this one does not say it.
        await wait_until(lambda: "replicas differ" in ground.says(1))
        assert ground.serving == [True, False]
        other.wrong = False
        await wait_until(lambda: ground.serving == [True, True])
        await ground.prove()

    play(story)


def test_a_replica_that_comes_while_an_adapter_is_proven_says_the_same_before_it_serves(
    play: Callable[[Story], None],
) -> None:
    async def story(ground: Ground, one: VllmSimulator, other: VllmSimulator) -> None:
        await ground.fleet.prepare(ground.adapter, "test")
        await die(ground, other)
        proof = await hold_up(one, ground.prove())
        await come_back(ground, other)
        assert ground.serving == [True, False]
        one.go_on.set()
        await proof
        await wait_until(lambda: ground.serving == [True, True])
        (name,) = other.loaded
        assert other.scored[name] == [ROWS]

    play(story)


def test_a_replica_that_comes_while_an_adapter_is_loaded_gets_it_before_it_serves(
    play: Callable[[Story], None],
) -> None:
    async def story(ground: Ground, one: VllmSimulator, other: VllmSimulator) -> None:
        await die(ground, other)
        loading = await hold_up(one, ground.fleet.prepare(ground.adapter, "test"))
        await come_back(ground, other)
        assert ground.serving == [True, False]
        one.go_on.set()
        await loading
        await wait_until(lambda: ground.serving == [True, True])
        assert other.loaded == one.loaded != {}
        await ground.prove()

    play(story)
