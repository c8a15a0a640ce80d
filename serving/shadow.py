"""Asking the candidate what the champion has just been asked, for comparison alone.

The copy is batch work: people's requests go first. Its answer is dropped: nobody sees it, and it
is no turn of any log.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError, UnavailableError
from appliance.engine.client import AsyncEngine
from serving.exchange import Exchange
from serving.observations import measure
from serving.versions import Versions

_AT_ONCE = 2
_log = logging.getLogger("espalier.shadow")


class Shadow:
    """Lives on the gateway's event loop."""

    def __init__(self, engine: AsyncEngine, versions: Versions) -> None:
        self._engine = engine
        self._versions = versions
        self._running: set[asyncio.Task[None]] = set()

    def copy(
        self, exchange: Exchange, candidate: Digest, told: Callable[[dict[str, float]], None]
    ) -> None:
        """Ask `candidate` the same, and tell how it did. Does nothing while enough is under way."""
        if len(self._running) >= _AT_ONCE:
            return
        asked = msgspec.structs.replace(
            exchange,
            adapter=candidate,
            generate=msgspec.structs.replace(
                exchange.generate, adapter=candidate, priority="batch"
            ),
            answers=[answer.fresh() for answer in exchange.answers],
            started_at=time.time(),
        )
        task = asyncio.get_running_loop().create_task(self._ask(asked, candidate, told))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _ask(
        self, asked: Exchange, candidate: Digest, told: Callable[[dict[str, float]], None]
    ) -> None:
        with self._versions.lease(candidate):
            try:
                run = asked.run(self._engine, self._versions, streaming=False)
                async with aclosing(run) as pieces:
                    async for _ in pieces:
                        pass
            except UnavailableError:
                return  # no room for batch work just now: that says nothing of the candidate
            except EspalierError as error:
                _log.warning("the candidate did not answer: %s", error)
                told({"errors": 1.0})
                return
        told(measure(asked))
