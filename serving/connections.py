"""Connections: as many as the machine allows, and none that is idle or stalled for ever."""

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_S = 75
"""Longer than clients keep an idle connection (openai: 5 s): the side that sends must be the one
that lets go, or a request meets a connection that is just being closed."""
STALLED_S = 60.0
"""How long a client may leave what is written to it unread; its request would hold its place and
its version for ever."""


class Connection(HttpToolsProtocol):
    """Closes after `IDLE_S` without a request: also before the first one, or with half a head.

    uvicorn's own waits only after an answer. It is cut off after `stalled_s` in which the client
    did not read.
    """

    stalled_s = STALLED_S
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio calls this."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Asyncio calls this."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()

    def pause_writing(self) -> None:
        """Asyncio calls this: much is written that was not read."""
        super().pause_writing()
        # Closing would wait until all of it was read.
        self._stalled = self.loop.call_later(self.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Asyncio calls this: most of it was read."""
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio calls this."""
        self._forget_stall()
        super().connection_lost(exc)

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _wait(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


def allow_many_files() -> int:
    """Each connection is a file: raise this process's bound to what it may have; returns it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
