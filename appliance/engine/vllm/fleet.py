"""Replicas of vLLM as one engine: an adapter is on every replica that answers, or on none.

A replica is in rotation once it has warmed up, has the resident adapters loaded, and says of each
what the others said (`Score.every_replica`). What it was asked and killed for is asked elsewhere,
as long as nothing of the answer is out.
"""

import asyncio
import itertools
import logging
import math
import secrets
import zlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.adapters import CONFIG, content_digest
from appliance.core.digests import Digest, short
from appliance.core.errors import (
    AdapterError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from appliance.core.home import Home
from appliance.engine.bases import Base
from appliance.engine.residents import Residents
from appliance.engine.vllm.member import Member
from appliance.engine.vllm.replica import FailedRequestError
from appliance.engine.wire import Generate, Health, Line, Released, Score, Scores

_log = logging.getLogger("espalier.vllm")

Facts = dict[str, str | int | float | bool]
Rows = list[list[float]]

_TRIES = 2
"""Replicas that one request is asked of; a third would fail in the same way."""

AGREEMENT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest mean difference between two replicas' logprobs of the same ids, in nats per token."""


class _Config(msgspec.Struct):
    r: int


class Fleet:
    """See `appliance.engine.port.EnginePort`."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        home: Home,
        base: Base,
        slots: int,
        context_length: int,
        max_rank: int,
        dtype: str,
        facts: Facts,
    ) -> None:
        """context_length: tokens of prompt and answer together, as the replicas were told.

        max_rank: the largest rank that they have slots for.

        facts: what the caller knows of the replicas, for `health`.
        """
        self._members = list(members)
        self._home = home
        self._base = base
        self._dtype = dtype
        # vLLM scores a row by sampling one token behind it, so a row has one token less.
        self._context_length = context_length - 1
        self._max_rank = max_rank
        self._facts = {**facts, "max_rank": max_rank}
        self._residents = Residents(slots)
        self._names: dict[Digest, str] = {}
        """What each resident adapter is called, on every replica: a new name each time."""
        # Replicas that somebody else runs may still know the names of an earlier process of ours.
        self._token = secrets.token_hex(4)
        self._counter = itertools.count(1)
        self._proofs: dict[Digest | None, tuple[list[list[int]], Rows]] = {}
        """What the replicas agreed on; one that comes back must say it too."""
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens = 0

    async def start(self) -> None:
        """Start every replica; those that come up join the rotation."""
        for member in self._members:
            self._spawn(member.keep_up(self._join))

    async def stop(self) -> None:
        """End every replica."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.end() for member in self._members))

    async def prepare(self, adapter: Digest, holder: str) -> None:
        """Load an adapter on every replica, or on none."""
        folder = self._home.adapter(adapter)
        if not folder.is_dir():
            raise NotFoundError(f"there is no adapter {short(adapter)} in {self._home.adapters}")
        async with self._changing:
            self._require_serving()
            if adapter in self._residents:
                # Read again: whoever asks learns whether the files are intact.
                await asyncio.to_thread(self._require_intact, folder, adapter)
                self._residents.hold(adapter, holder)
                return
            self._residents.hold(adapter, holder)
            try:
                await self._load(adapter, folder)
            except BaseException:
                self._residents.release(adapter, holder)
                raise

    async def release(self, adapter: Digest | None, holder: str) -> Released:
        """Stop keeping an adapter; it goes when the last request that uses it has ended."""
        released = self._residents.release(adapter, holder)
        self._forget_unused()
        return released

    async def generate(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        """The answer of one replica; of another where that one fails before its first token."""
        room = self._context_length - len(request.prompt_ids)
        if room < 1:
            raise UsageError(
                f"the prompt has {len(request.prompt_ids)} tokens, this engine takes at most "
                f"{self._context_length - 1}",
                next_step="shorten the conversation, or raise [vllm] context_length",
            )
        self._require_ids([request.prompt_ids])
        request = msgspec.structs.replace(request, max_tokens=min(request.max_tokens, room))
        self._residents.use(request.adapter)
        try:
            name = self._name(request.adapter)
            tried: list[Member] = []
            while True:
                member = self._choose(request, tried)
                begun = False
                try:
                    async with aclosing(member.generate(request, name)) as answer:
                        async for lines in answer:
                            begun = True
                            self._tokens += sum(len(line.ids) for line in lines)
                            yield lines
                    return
                except (UnavailableError, NotFoundError) as error:
                    # Not found: it was started anew, unseen by us, and has lost its adapters.
                    member.doubt(
                        lost=isinstance(error, NotFoundError),
                        answers=isinstance(error, FailedRequestError),
                    )
                    tried.append(member)
                    if begun or len(tried) == min(_TRIES, len(self._members)):
                        raise UnavailableError(error.message, next_step=error.next_step) from error
        finally:
            self._residents.end(request.adapter)
            self._forget_unused()

    async def score(self, wanted: Score) -> Scores:
        """Logprobs of given ids, from one replica or from all."""
        for row in wanted.ids:
            if not 1 <= len(row) <= self._context_length:
                raise UsageError(
                    f"a row to score must have 1 to {self._context_length} tokens, got {len(row)}"
                )
        self._require_ids(wanted.ids)
        self._residents.use(wanted.adapter)
        try:
            name = self._name(wanted.adapter)
            if wanted.every_replica:
                return await self._prove(wanted, name)
            chosen = min(self._require_serving(), key=lambda member: member.num_running)
            return Scores(logprobs=await chosen.score(wanted.ids, name))
        finally:
            self._residents.end(wanted.adapter)
            self._forget_unused()

    async def health(self) -> Health:
        """How the replicas are, together.

        Raises:
            UnavailableError: none of them answers yet.
        """
        serving = self._require_serving()
        return Health(
            base=self._base.digest,
            resident=[digest for digest in self._residents.digests if digest in self._names],
            running=sum(member.num_running for member in serving),
            waiting=0,
            tokens_generated=self._tokens,
            rss_mib=sum(member.memory_mib() for member in serving),
            capabilities={
                **self._facts,
                "context_length": self._context_length,
                "replicas": len(self._members),
                "replicas_serving": len(serving),
            },
        )

    # --- replicas -------------------------------------------------------------------------------

    async def _join(self, member: Member) -> None:
        """A replica that came up: give it the adapters, prove each, let it serve.

        Raises:
            EspalierError: it cannot be proven; it is started again.
        """
        async with self._changing:
            await member.hold_exactly(self._folders)
            for proven, (ids, logprobs) in list(self._proofs.items()):
                if proven is None or proven in self._names:
                    said = await member.score(ids, self._names[proven] if proven else None)
                    self._require_agreement(logprobs, said)
            # What was given back meanwhile goes from here too.
            await member.hold_exactly(self._folders)
            member.serving = True
        _log.info("replica %d serves, %d adapters", member.index, len(self._names))

    async def _prove(self, wanted: Score, name: str | None) -> Scores:
        """What every replica says. Who joins later must say it too, so none joins meanwhile."""
        async with self._changing:
            serving = self._require_serving()
            said = await asyncio.gather(*(member.score(wanted.ids, name) for member in serving))
            for other in said[1:]:
                self._require_agreement(said[0], other)
            self._proofs[wanted.adapter] = (wanted.ids, said[0])
        return Scores(logprobs=said[0])

    @property
    def _folders(self) -> dict[str, Path]:
        return {name: self._home.adapter(adapter) for adapter, name in self._names.items()}

    async def _load(self, adapter: Digest, folder: Path) -> None:
        name = f"{adapter.removeprefix('sha256:')[:16]}-{self._token}-{next(self._counter)}"
        members = self._serving()
        # Read while it is loaded: what turns out to be something else is unloaded again.
        intact, *loaded = await asyncio.gather(
            asyncio.to_thread(self._require_intact, folder, adapter),
            *(member.load(name, folder) for member in members),
            return_exceptions=True,
        )
        gone = [m for m, outcome in zip(members, loaded, strict=True) if _is_gone(outcome)]
        for member in gone:
            # It comes back with what is resident then; the others go on.
            member.doubt()
        outcomes = (
            [intact, *loaded]
            if len(gone) == len(members)
            else [outcome for outcome in (intact, *loaded) if not _is_gone(outcome)]
        )
        failure = next((one for one in outcomes if isinstance(one, BaseException)), None)
        if failure is not None:
            await asyncio.gather(*(member.unload_quietly(name) for member in members))
            raise failure
        self._names[adapter] = name

    def _forget_unused(self) -> None:
        """Unload what nobody holds and no request uses any more."""
        for adapter in [known for known in self._names if known not in self._residents]:
            name = self._names.pop(adapter)
            self._proofs.pop(adapter, None)
            for member in self._members:
                self._spawn(member.unload_quietly(name))

    def _choose(self, request: Generate, tried: list[Member]) -> Member:
        """The least busy one; among equals, where such a prompt was answered before."""
        serving = [member for member in self._require_serving() if member not in tried]
        if not serving:
            raise UnavailableError("no other vLLM replica serves", next_step="try again")
        start = zlib.crc32(repr((request.adapter, request.prompt_ids[:64])).encode())
        return min(serving, key=lambda m: (m.num_running, (m.index - start) % len(self._members)))

    def _name(self, adapter: Digest | None) -> str | None:
        if adapter is None:
            return None
        if adapter not in self._names:
            raise NotFoundError(
                f"adapter {short(adapter)} is not resident", next_step="prepare it first"
            )
        return self._names[adapter]

    def _serving(self) -> list[Member]:
        return [member for member in self._members if member.serving]

    def _require_serving(self) -> list[Member]:
        if serving := self._serving():
            return serving
        states = "; ".join(f"replica {m.index}: {m.says}" for m in self._members)
        raise UnavailableError(
            f"no vLLM replica serves yet ({states})",
            next_step="logs/vllm-0.log says what it does; a start takes one to two minutes",
        )

    def _require_intact(self, folder: Path, adapter: Digest) -> None:
        try:
            found = content_digest(folder, self._base.digest)
        except OSError as error:
            raise AdapterError("missing_file", f"{folder.name}: {error.strerror}") from error
        if found != adapter:
            raise AdapterError(
                "digest_mismatch", f"expected {short(adapter)}, its bytes are {short(found)}"
            )
        rank = msgspec.json.decode((folder / CONFIG).read_bytes(), type=_Config).r
        if rank > self._max_rank:
            raise AdapterError(
                "over_rank",
                f"adapter {short(adapter)} has rank {rank}, vLLM has slots for {self._max_rank}",
                next_step="raise [vllm] max_rank, and start the engine anew",
            )

    def _require_ids(self, rows: list[list[int]]) -> None:
        largest = max((max(row) for row in rows if row), default=0)
        if largest >= self._base.record.vocab_size:
            raise UsageError(
                f"id {largest} is not one of this base's {self._base.record.vocab_size}"
            )

    def _require_agreement(self, one: Rows, other: Rows) -> None:
        gap = _gap(one, other)
        if not gap <= AGREEMENT[self._dtype]:
            raise IntegrityError(
                f"two vLLM replicas differ by {gap:.2g} nats per token, "
                f"at most {AGREEMENT[self._dtype]:g} allowed",
                next_step="they serve different weights: restart the engine",
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _gap(one: Rows, other: Rows) -> float:
    pairs = [
        abs(a - b)
        for row, others in zip(one, other, strict=True)
        for a, b in zip(row, others, strict=True)
    ]
    return math.fsum(pairs) / len(pairs) if pairs else 0.0


def _is_gone(outcome: object) -> bool:
    return isinstance(outcome, UnavailableError)
