"""The Engine port: what serving, evaluation and practice may ask of whatever holds the model.

Implemented by the embedded engine (appliance/inference), by vLLM (appliance/engine/vllm) and, in
tests, by a simulator. socket_server.py puts any of them on the private socket; client.py asks.
There is no "replace": another version is another adapter.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from appliance.core.digests import Digest
from appliance.engine.wire import Generate, Health, Line, Released, Score, Scores


class EnginePort(Protocol):
    """One engine, used from one event loop."""

    async def start(self) -> None:
        """Begin to work. Called once, before anything else."""

    async def stop(self) -> None:
        """End; what is under way is given up."""

    async def prepare(self, adapter: Digest, holder: str) -> None:
        """Make an adapter resident and keep it so for `holder`. Twice is once.

        Raises:
            NotFoundError: it is not in this home.
            AdapterError: it is not fit to be loaded.
            ConflictError: every slot is held.
        """

    async def release(self, adapter: Digest | None, holder: str) -> Released:
        """Stop keeping an adapter; None: all that `holder` keeps."""

    def generate(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        """The answer, as lines that came together; the last has `done`. Closing it early stops.

        Raises:
            NotFoundError: the adapter is not resident.
            UsageError: a prompt that is too long, or ids that the base does not have.
            UnavailableError: the engine failed.
        """

    async def score(self, wanted: Score) -> Scores:
        """Logprobs of given ids. Raises as `generate`."""

    async def health(self) -> Health:
        """How it is."""
