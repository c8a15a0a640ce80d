"""One replica from the fleet's side: started, warmed up, watched by what it answers, started again.

A process that runs is no sign of health: after an engine's death vLLM's API server stays up for a
while. What counts is an answer, so it is asked for tokens when nobody else has asked for a while.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path

from appliance.core.errors import EspalierError, UnavailableError
from appliance.engine.vllm.launch import BASE_NAME, Launch
from appliance.engine.vllm.process import Process
from appliance.engine.vllm.replica import Replica
from appliance.engine.wire import Generate, Line

_LOOK_S = 0.5
_START_TIMEOUT_S = 900.0
_ANSWER_TIMEOUT_S = 60.0
_PROBE_EVERY_S = 15.0
_STEADY_S = 60.0
_BACKOFF_S = (0.5, 1.0, 5.0, 15.0, 30.0)
_log = logging.getLogger("espalier.vllm")

_WARM_UP = Generate(
    prompt_ids=[1, 2, 3], max_tokens=2, temperature=0.7, top_p=0.9, seed=1, top_logprobs=1
)
"""The first of its kind compiles: twenty seconds that no user should wait for."""
_PROBE = Generate(prompt_ids=[1, 2, 3], max_tokens=1, temperature=0.0)


class Member:
    """A replica with its process; without one (`log` is None) somebody else runs it."""

    def __init__(self, index: int, launch: Launch, log: Path | None) -> None:
        self.index = index
        self.serving = False
        self.says = "not started"
        self.num_running = 0
        self._launch = launch
        self._base = BASE_NAME
        self._log = log
        self._replica = Replica(launch.socket)
        self._process: Process | None = None
        self._loaded: set[str] = set()
        self._lost = False
        self._answered_at = 0.0
        self._doubted = asyncio.Event()

    async def keep_up(self, join: Callable[["Member"], Awaitable[None]]) -> None:
        """Start it, let it `join`, watch it, and begin anew when it fails; until cancelled."""
        self._replica.open()
        for failures in itertools.count():
            began = time.monotonic()
            try:
                await self._come_up()
                while True:
                    await join(self)
                    self.says = "serves"
                    await self._watch()
                    # It failed somebody and answers all the same.
            except EspalierError as error:
                self.says = error.message
                _log.warning("replica %d: %s", self.index, error.message)
            except Exception as error:
                self.says = f"{type(error).__name__}: {error}"
                _log.exception("replica %d", self.index)
            finally:
                self.serving = False
            await self._end_process()
            steady = time.monotonic() - began > _STEADY_S
            await asyncio.sleep(_BACKOFF_S[0 if steady else min(failures, len(_BACKOFF_S) - 1)])

    async def end(self) -> None:
        """End its process, if it is ours."""
        self.serving = False
        await self._end_process()
        await self._replica.close()

    def doubt(self, *, lost: bool = False, answers: bool = False) -> None:
        """It failed somebody: no request goes there until it has been looked at.

        `lost`: it does not know an adapter that it was given; it gets all of them again.
        `answers`: it said itself that it failed. It is looked at, and serves until then: one bad
        request must not take every replica from everybody.
        """
        self.serving = self.serving and answers
        self._lost = self._lost or lost
        self._doubted.set()

    async def generate(
        self, request: Generate, name: str | None
    ) -> AsyncGenerator[list[Line], None]:
        """See Replica; counted. `name`: of the adapter; None is the base."""
        self.num_running += 1
        try:
            async with aclosing(self._replica.generate(request, name or self._base)) as answer:
                async for lines in answer:
                    self._answered_at = time.monotonic()
                    yield lines
        finally:
            self.num_running -= 1

    async def score(self, rows: list[list[int]], name: str | None) -> list[list[float]]:
        """See Replica; counted. `name`: of the adapter; None is the base."""
        self.num_running += 1
        try:
            return await self._replica.score(rows, name or self._base)
        finally:
            self.num_running -= 1

    async def load(self, name: str, path: Path) -> None:
        """See Replica."""
        await self._replica.load(name, path)
        self._loaded.add(name)

    async def unload_quietly(self, name: str) -> None:
        """Unload, if it is there; one that cannot has lost its adapters, or will."""
        if name not in self._loaded:
            return
        self._loaded.discard(name)
        try:
            await self._replica.unload(name)
        except EspalierError as error:
            _log.warning("replica %d keeps %s: %s", self.index, name, error.message)

    async def hold_exactly(self, adapters: Mapping[str, Path]) -> None:
        """Load what is missing of `adapters` (by name), and unload everything else."""
        for name in list(self._loaded) if self._lost else self._loaded - adapters.keys():
            await self.unload_quietly(name)
        self._lost = False
        for name in adapters.keys() - self._loaded:
            await self.load(name, adapters[name])

    def memory_mib(self) -> float:
        """Resident memory of its processes; 0 where somebody else runs it."""
        return 0.0 if self._process is None else self._process.memory_mib()

    async def _come_up(self) -> None:
        """Start it and wait until it answers with tokens.

        Raises:
            UnavailableError: it ended, or does not answer in time.
        """
        self._doubted.clear()
        self._loaded.clear()
        began = time.monotonic()
        if self._log is not None:
            self._process = await Process.start(self._launch, self._log)
        while not await self._replica.healthy():
            seconds = time.monotonic() - began
            self.says = f"starting for {seconds:.0f} s"
            if self._process is not None and self._process.ended:
                raise UnavailableError(f"vLLM ended while it started; read {self._log}")
            if seconds > _START_TIMEOUT_S:
                raise UnavailableError(f"vLLM does not answer after {seconds:.0f} s")
            await asyncio.sleep(_LOOK_S)
        self.says = "warming up"
        if self._launch.plain is not None:
            self._base = f"plain-{secrets.token_hex(4)}"
            await self._replica.load(self._base, self._launch.plain)
        await self._ask(_WARM_UP, _START_TIMEOUT_S)
        await self._replica.score([[1, 2, 3, 4]], self._base)

    async def _watch(self) -> None:
        """Return when somebody doubts it and it answers all the same.

        Raises:
            UnavailableError: it ended, says that it is not healthy, or does not answer.
        """
        doubted = False
        while not doubted:
            doubted = await self._wait_for_doubt()
            if self._process is not None and self._process.ended:
                raise UnavailableError("its process ended")
            healthy = await self._replica.healthy()
            if healthy is False:
                raise UnavailableError("it says that it is not healthy")
            # One that says nothing may be busy; whether it still gives tokens decides.
            if doubted or healthy is None or time.monotonic() - self._answered_at > _PROBE_EVERY_S:
                await self._ask(_PROBE, _ANSWER_TIMEOUT_S)

    async def _wait_for_doubt(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._doubted.wait()
        except TimeoutError:
            return False
        self._doubted.clear()
        return True

    async def _ask(self, request: Generate, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                async for _ in self._replica.generate(request, self._base):
                    self._answered_at = time.monotonic()
        except TimeoutError:
            raise UnavailableError(f"it gave no token in {timeout_s:.0f} s") from None

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()
