"""A replica's process, from its start to its end. vLLM is several processes: they end together."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appliance.core.errors import UnavailableError
from appliance.engine.vllm.launch import Launch, inherited

_GRACE_S = 10.0


class Process:
    """One start of one replica."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    @classmethod
    async def start(cls, launch: Launch, log: Path) -> "Process":
        """Start it, with what it says appended to `log`.

        Raises:
            UnavailableError: the command cannot be run.
        """
        launch.socket.unlink(missing_ok=True)
        with log.open("ab") as output:
            try:
                child = await asyncio.create_subprocess_exec(
                    # A watcher between us: it ends vLLM's whole process group when we are gone.
                    sys.executable, "-m", "appliance.engine.vllm.watcher", str(os.getpid()),
                    *launch.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**inherited(os.environ), **launch.environment},
                    # No session of its own: Linux shares the processor out between sessions,
                    # and beside a replica's on a CPU the gateway waited for half a second.
                    process_group=0,
                )  # fmt: skip
            except OSError as error:
                raise UnavailableError(f"vLLM cannot be started: {error}") from error
        return cls(child)

    @property
    def pid(self) -> int:
        """Of the watcher, which leads the replica's process group."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._child.returncode is not None

    def memory_mib(self) -> float:
        """Resident memory of everything that it started, in MiB."""
        return sum(map(_rss_mib, _family(self._child.pid)))

    async def end(self) -> None:
        """End it: asked first, then killed, with everything that it started."""
        if not self.ended:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await self._child.wait()
        self._signal(signal.SIGKILL)
        await self._child.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _rss_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
