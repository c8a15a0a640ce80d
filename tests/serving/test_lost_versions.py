"""What an engine that was started anew has lost is loaded and proven again: once."""

import asyncio
from typing import Any

from appliance.core.digests import Digest, digest_bytes
from appliance.engine.wire import Health
from serving.versions import Versions

ADAPTER = digest_bytes(b"an adapter")


class Engine:
    """Loads whatever it is asked to, and can be started anew."""

    def __init__(self) -> None:
        self.starts = 1
        self.loads: list[Digest] = []

    async def prepare(self, adapter: Digest, _: str) -> None:
        self.loads.append(adapter)

    async def release(self, *_: Any) -> None:
        pass

    async def health(self) -> Health:
        return Health(
            base=ADAPTER, resident=self.loads[-1:], running=0, waiting=0, tokens_generated=0,
            rss_mib=0.0, incarnation=str(self.starts), capabilities={},
        )  # fmt: skip


def versions_of(engine: Engine, proofs: list[Digest]) -> Versions:
    versions = Versions(engine)  # type: ignore[arg-type]

    async def prove(adapter: Digest) -> None:
        proofs.append(adapter)

    versions.proof = prove
    versions.keep("alias", ADAPTER)
    return versions


def test_refusals_that_come_late_do_not_undo_the_proof() -> None:
    async def story() -> None:
        engine, proofs = Engine(), list[Digest]()
        versions = versions_of(engine, proofs)
        first = await versions.require_ready(ADAPTER)
        engine.starts += 1
        for _ in range(10):
            await versions.load_again(ADAPTER, refused=first)
        assert await versions.require_ready(ADAPTER) == "2"
        assert len(proofs) == 2

    asyncio.run(story())


def test_what_the_engine_still_has_is_not_loaded_again() -> None:
    async def story() -> None:
        engine, proofs = Engine(), list[Digest]()
        versions = versions_of(engine, proofs)
        await versions.require_ready(ADAPTER)
        await versions.restore(await engine.health())
        assert len(proofs) == 1
        engine.starts += 1
        await versions.restore(await engine.health())
        assert len(proofs) == 2

    asyncio.run(story())


def test_a_proof_of_what_was_lost_meanwhile_is_worth_nothing() -> None:
    async def story() -> None:
        versions = versions_of(Engine(), [])
        versions.proved(ADAPTER, "1")
        assert not versions.proven(ADAPTER)
        await versions.prepare(ADAPTER)
        assert not versions.proven(ADAPTER)

    asyncio.run(story())
