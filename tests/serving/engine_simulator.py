"""An engine without a model: the Engine port on the real wire and a real Unix socket.

What it says stands in the prompt: ``say:{"text": …, "delay_s": …}``; without it, it says who it
is, or, with `draws`, tokens that only this seed and this adapter give. It keeps adapters resident
by holder as the real ones do, counts streams that were left early, and can be told to hold other
weights than its adapters' (`weights`). With ``"wait_s": s`` in its script it says nothing for so
long, and with ``"dies_after": n`` it fails after n tokens, ``"deaths": m`` times at most.
"""

import asyncio
import json
import threading
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from appliance.core.adapters import content_digest
from appliance.core.digests import Digest, short
from appliance.core.errors import (
    AdapterError,
    ConflictError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from appliance.engine.socket_server import listen
from appliance.engine.template import Template
from appliance.engine.wire import Generate, Health, Line, Released, Score, Scores

_DRAW_S = 0.002


class EngineSimulator:
    """Use as a context manager; `stop` and `start` again stand for a crash."""

    def __init__(self, socket_path: Path, base: Digest, template: Template, slots: int = 4) -> None:
        self.path = socket_path
        self.base = base
        self.template = template
        self.slots = slots
        self.context_length = 4096
        self.holders: dict[Digest, set[str]] = defaultdict(set)
        self.uses: Counter[Digest | None] = Counter()
        self.weights: dict[Digest, Digest] = {}
        """Adapter → the adapter whose weights it really has; absent is right."""
        self.noop: set[Digest] = set()
        """Adapters that are loaded and change nothing."""
        self.folder_of: Callable[[Digest], Path] | None = None
        """Where adapters lie; None loads whatever is named, without a look at any file."""
        self.draws = False
        """Whether it draws tokens where no script tells it what to say."""
        self.queue: deque[str] = deque()
        """What it says next where no script stands in the prompt, one answer after the other."""
        self.requests: list[Generate] = []
        self.left_early = 0
        self.deaths: Counter[str] = Counter()
        """How often it failed in mid-answer, by the script that said so."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "EngineSimulator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        ready = threading.Event()
        self.holders.clear()
        self.uses.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(5)

    def stop(self) -> None:
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.path.unlink(missing_ok=True)
        runner = await listen(_Port(self), self.path)
        ready.set()
        await self._stopping.wait()
        await runner.cleanup()


class _Port:
    """See `appliance.engine.port.EnginePort`."""

    def __init__(self, simulator: EngineSimulator) -> None:
        self._it = simulator

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def prepare(self, adapter: Digest, holder: str) -> None:
        it = self._it
        if it.folder_of is not None:
            _require_intact(it.folder_of(adapter), adapter, it.base)
        if adapter not in it.holders and len(it.holders) >= it.slots:
            raise ConflictError("all adapter slots are taken")
        it.holders[adapter].add(holder)

    async def release(self, adapter: Digest | None, holder: str) -> Released:
        result = Released()
        holders = self._it.holders
        for one in [adapter] if adapter else [a for a in holders if holder in holders[a]]:
            holders[one].discard(holder)
            if not holders[one]:
                (result.deferred if self._it.uses[one] else result.freed).append(one)
                self._free_unused(one)
        return result

    async def score(self, wanted: Score) -> Scores:
        self._require_resident(wanted.adapter)
        weights = self._weights_of(wanted.adapter)
        return Scores(logprobs=[score(weights, row) for row in wanted.ids])

    async def health(self) -> Health:
        return Health(
            base=self._it.base,
            resident=list(self._it.holders),
            running=sum(self._it.uses.values()),
            waiting=0,
            tokens_generated=0,
            rss_mib=1.0,
            capabilities={"context_length": self._it.context_length, "replicas": 1},
        )

    async def generate(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        it = self._it
        self._require_resident(request.adapter)
        if len(request.prompt_ids) >= it.context_length:
            raise UsageError(f"the prompt has {len(request.prompt_ids)} tokens")
        it.requests.append(request)
        it.uses[request.adapter] += 1
        done = False
        try:
            async for lines in self._answer(request):
                done = lines[-1].done
                yield lines
        finally:
            it.left_early += not done
            it.uses[request.adapter] -= 1
            if request.adapter is not None:
                self._free_unused(request.adapter)

    async def _answer(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        script = self._script(request)
        dies_after = self._dies_after(script or {})
        if script is None and self._it.draws:
            choices, delay_s = [list(self._draw(request, n)) for n in range(request.n)], _DRAW_S
        else:
            if script is None:
                queue = self._it.queue
                script = {"text": queue.popleft() if queue else f"I am {_name(request.adapter)}"}
            text, delay_s = script["text"], script.get("delay_s", 0.0)
            text = script.get("instead", {}).get(request.adapter, text)
            choices = [list(self._say(request, text, n)) for n in range(request.n)]
        await asyncio.sleep((script or {}).get("wait_s", 0.0))
        for at, step in enumerate(zip_longest(*choices)):
            if at == dies_after:
                raise UnavailableError("the replica died")
            for line in step:
                if line is not None:
                    yield [line]
            await asyncio.sleep(delay_s)
        yield [Line(done=True, prompt_tokens=len(request.prompt_ids), cached_tokens=3)]

    def _say(self, request: Generate, text: str, choice: int) -> Iterator[Line]:
        ids = [*self._it.template.encode_text(text), self._it.template.stop_ids[0]]
        reason = "stop" if len(ids) <= request.max_tokens else "length"
        ids = ids[: request.max_tokens]
        for at, token in enumerate(ids):
            top = [(token, -0.25), (7, -3.5)][: request.top_logprobs]
            yield Line(
                index=choice,
                ids=[token],
                logprobs=[-0.25 * (choice + 1)],
                top_logprobs=[top] if request.top_logprobs else [],
                finish_reason=reason if at == len(ids) - 1 else "",  # type: ignore[arg-type]
            )

    def _draw(self, request: Generate, choice: int) -> Iterator[Line]:
        weights = self._weights_of(request.adapter)
        ids = list(request.prompt_ids)
        for at in range(request.max_tokens):
            key = (request.temperature and request.seed, request.temperature and choice, weights)
            ids.append(3 + zlib.crc32(repr((key, at)).encode()) % 200)
            stop = ids[-1] in request.stop_ids
            last = stop or at == request.max_tokens - 1
            yield Line(
                index=choice,
                ids=ids[-1:],
                logprobs=score(weights, ids)[-1:],
                finish_reason="stop" if stop else "length" if last else "",
            )
            if last:
                return

    def _script(self, request: Generate) -> dict[str, Any] | None:
        prompt = self._it.template.decode(request.prompt_ids)
        _, found, rest = prompt.rpartition("say:")
        if not found:
            return None
        script: dict[str, Any] = json.JSONDecoder().raw_decode(rest)[0]
        return script

    def _dies_after(self, script: dict[str, Any]) -> int:
        """After how many tokens of this script it fails, this time; -1 for never."""
        name = json.dumps(script)
        if "dies_after" not in script or self._it.deaths[name] >= script.get("deaths", 1 << 30):
            return -1
        self._it.deaths[name] += 1
        return int(script["dies_after"])

    def _weights_of(self, adapter: Digest | None) -> Digest | None:
        return None if adapter in self._it.noop else self._it.weights.get(adapter or "", adapter)

    def _free_unused(self, adapter: Digest) -> None:
        if not self._it.uses[adapter] and not self._it.holders[adapter]:
            del self._it.holders[adapter]

    def _require_resident(self, adapter: Digest | None) -> None:
        if adapter is not None and adapter not in self._it.holders:
            raise NotFoundError(f"adapter {short(adapter)} is not resident")


def score(adapter: Digest | None, ids: list[int]) -> list[float]:
    """Logprobs that only this adapter gives to these ids."""
    seed = zlib.crc32((adapter or "base").encode())
    return [-1.0 - (seed * (token + 1) * (at + 1) % 997) / 997 for at, token in enumerate(ids[1:])]


def _name(adapter: Digest | None) -> str:
    return short(adapter) if adapter else "base"


def _require_intact(folder: Path, adapter: Digest, base: Digest) -> None:
    if not folder.is_dir():
        raise NotFoundError(f"there is no adapter {short(adapter)}")
    if content_digest(folder, base) != adapter:
        raise AdapterError("digest_mismatch", f"{folder.name} is not {short(adapter)}")
