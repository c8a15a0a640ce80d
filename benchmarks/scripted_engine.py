"""An engine that computes nothing: as many tokens as are asked for, one line each.

What `benchmarks.gateway` measures the gateway's own cost with: behind it the processor's caches
stay as they were, which no real engine on the same cores leaves them.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from appliance.core.errors import UsageError
from appliance.core.home import Home
from appliance.engine.bases import Registry
from appliance.engine.socket_server import serve
from appliance.engine.wire import Generate, Health, Line, Released, Score, Scores

GAP_S = 0.001
"""Between two tokens; without it they would come, and be passed on, many at a time."""


class ScriptedEngine:
    """Implements the Engine port for one base without adapters."""

    def __init__(self, base: str, token: int) -> None:
        self._base = base
        self._token = token

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def prepare(self, adapter: str, holder: str) -> None:
        """It has none."""
        raise UsageError(f"no adapters here, got {adapter} for {holder}")

    async def release(self, adapter: str | None, holder: str) -> Released:  # noqa: ARG002
        """It has none."""
        return Released()

    async def generate(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        """The same token again and again, at a pace."""
        last = request.max_tokens - 1
        for at in range(request.max_tokens):
            reason = "length" if at == last else ""
            yield [Line(index=0, ids=[self._token], logprobs=[-0.5], finish_reason=reason)]
            await asyncio.sleep(GAP_S)
        yield [Line(done=True, prompt_tokens=len(request.prompt_ids))]

    async def score(self, wanted: Score) -> Scores:
        """Every token as likely as the other."""
        return Scores(logprobs=[[-0.5] * (len(row) - 1) for row in wanted.ids])

    async def health(self) -> Health:
        """Always well."""
        return Health(
            base=self._base, resident=[], running=0, waiting=0, tokens_generated=0, rss_mib=0.0,
            capabilities={},
        )  # fmt: skip


def main() -> None:
    """``python -m benchmarks.scripted_engine HOME BASE``."""
    home = Home(Path(sys.argv[1]))
    base = Registry(home).get(sys.argv[2])
    serve(ScriptedEngine(base.digest, token=base.record.vocab_size // 2), home.socket("engine"))


if __name__ == "__main__":
    main()
