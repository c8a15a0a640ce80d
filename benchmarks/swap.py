"""Swapping adapters under load: what it costs, and whether anybody notices.

``python -m benchmarks.swap [--json] [--swaps N] [--engine embedded|vllm ...]``

A real appliance on the tiny base: engine, gateway, its log, two adapters that people approved.
Eight clients stream answers all the time, at temperature 1, with a log probability for each token.
First a control without swaps; then releases and rollbacks, one after the other, each with the
whole of vetting: files read, approvals counted, logprobs proven. The clients count. Afterwards
every answer is scored under the version that its header states: an answer has changed when a token
is further off than anything in the control (float32). On vLLM one of the two cores stays free.

A switch ends at the first answer that names the new version; its journal entry is durable by then,
so what the disk takes is in it, and is printed beside it.

prepare: an adapter of 40 MB on a base of SmolLM2's shape, from its verified folder to the engine's
acknowledgement; the proof beside it.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from appliance.core.home import Home
from appliance.engine.bases import Registry
from appliance.engine.wire import Health
from benchmarks.about import about
from tests.engine_port.approved import ApprovedHome
from tests.engine_port.company import random_model, register
from tests.services.tiny import bring_tiny
from tests.services.vllm import bring_vllm

STREAMS = 8
NUM_NEW = 64
PROMPT = [1, 70, 80, 90, 100, 110, 120, 130]
_SETTLE_S = 2.0
_PREPARES = 7
_LARGE_RANK = 32
_LARGE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 1024,
}  # fmt: skip
"""SmolLM2's shape; 40 MB of adapter at that rank, in float32."""
_ABOUT = ("processor", "cores", "load", "python", "torch", "aiohttp")


@dataclass
class Answer:
    """One answer as a client saw it."""

    version: str
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)


@dataclass
class Seen:
    """What the clients saw in one phase."""

    answers: list[Answer] = field(default_factory=list)
    dropped: int = 0
    http_5xx: int = 0


def main() -> None:
    """Run, and print a table or one line of JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.swap", description=__doc__)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--engine", nargs="*", default=["embedded", "vllm"])
    arguments = parser.parse_args()
    engines = []
    for kind in arguments.engine:
        with tempfile.TemporaryDirectory() as scratch:
            engines.append(measure(kind, Path(scratch), arguments.swaps))
        print("  ".join(f"{name} {value}" for name, value in engines[-1].items()), file=sys.stderr)
    result = {**about("torch", "aiohttp"), "engines": engines}
    print(", ".join(f"{name} {result[name]}" for name in _ABOUT), file=sys.stderr)
    if arguments.json:
        print(json.dumps(result))


def measure(kind: str, scratch: Path, swaps: int) -> dict[str, Any]:
    """One engine: its row of the table."""
    settings = {"ESPALIER__VLLM__PYTHON": str(bring_vllm())} if kind == "vllm" else {}
    home = Home(scratch / "home")
    shutil.copytree(bring_tiny() / "bases", home.bases)
    served = ApprovedHome(home, Registry(home).get("tiny"), kind, settings)
    adapters = [served.add_adapter(seed) for seed in (1, 2)]
    try:
        served.start("engine")
        served.start("serving")
        row = asyncio.run(_swap(served, adapters, swaps, served.wait_until_ready()))
    finally:
        served.stop()
    return {"engine": kind, **row, **_prepare(kind, scratch, settings)}


async def _swap(
    served: ApprovedHome, adapters: Sequence[str], swaps: int, url: str
) -> dict[str, Any]:
    key = served.add_key()
    await asyncio.sleep(1.5)  # the gateway reads its keys each second
    first, second = [(*served.add_round(adapter), adapter) for adapter in adapters]
    number, cast, adapter = first
    await asyncio.to_thread(served.release, number, adapter, cast)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        await _stream_for(session, url, _SETTLE_S, Seen())
        began = time.monotonic()
        control = Seen()
        await _stream_for(session, url, max(10.0, min(60.0, swaps / 20)), control)
        busy = Seen()
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(_client(session, url, n, stop, busy)) for n in range(STREAMS)
        ]
        changes: list[tuple[float, str]] = []
        watcher = asyncio.create_task(_watch(session, url, stop, changes))
        flushes: list[float] = []
        flusher = asyncio.create_task(_flush(served.home.root / "flushed", stop, flushes))
        rollbacks, switches = await _move(served, second, swaps, changes)
        stop.set()
        await asyncio.gather(*clients, watcher, flusher)
    tolerance = max(2 * max(map(max, _distances(served, control.answers))), 1e-4)
    changed = sum(max(row) > tolerance for row in _distances(served, busy.answers))
    return {
        "swaps": swaps,
        "seconds": round(time.monotonic() - began, 1),
        "answers": len(busy.answers),
        "versions": len({answer.version for answer in busy.answers}),
        "dropped": busy.dropped,
        "http_5xx": busy.http_5xx,
        "changed_outputs": changed,
        "tolerance_nats": round(tolerance, 6),
        "switch_ms": round(statistics.median(switches), 2),
        "switch_p99_ms": _p99(switches),
        "flush_p99_ms": _p99(flushes),
        "rollback_ms": round(statistics.median(rollbacks), 2),
        "rollback_p99_ms": _p99(rollbacks),
        "gap_control_p99_ms": _p99([g for a in control.answers for g in a.gaps_ms]),
        "gap_p99_ms": round(
            _p99([g for a in busy.answers for g in a.gaps_ms])
            - _p99([g for a in control.answers for g in a.gaps_ms]),
            2,
        ),
    }


async def _move(
    served: ApprovedHome,
    to: tuple[int, list[str], str],
    swaps: int,
    changes: Sequence[tuple[float, str]],
) -> tuple[list[float], list[float]]:
    """Release and roll back in turn: how long the rollbacks took, and every switch, from its
    journal entry's time to the first answer that names the new version.
    """
    rollbacks, switches = [], []
    number, cast, adapter = to
    for turn in range(swaps):
        if turn % 2 == 0:
            moved = await asyncio.to_thread(served.release, number, adapter, cast)
        else:
            order = {"actor": "bench", "reason": "to and fro"}
            began = time.perf_counter()
            moved = await asyncio.to_thread(served.admin, "POST", "/rollback", order)
            rollbacks.append((time.perf_counter() - began) * 1000)
        while not changes or changes[-1][1] != moved["release"]["adapter"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        switches.append((changes[-1][0] - moved["release"]["at"]) * 1000)
        if turn % 100 == 99:
            print(f"  {turn + 1} swaps", file=sys.stderr)
    return rollbacks, switches


async def _stream_for(session: aiohttp.ClientSession, url: str, seconds: float, seen: Seen) -> None:
    stop = asyncio.Event()
    clients = [asyncio.create_task(_client(session, url, n, stop, seen)) for n in range(STREAMS)]
    await asyncio.sleep(seconds)
    stop.set()
    await asyncio.gather(*clients)


async def _client(
    session: aiohttp.ClientSession, url: str, number: int, stop: asyncio.Event, seen: Seen
) -> None:
    """Ask, read to the end, ask again."""
    turn = 0
    while not stop.is_set():
        turn += 1
        body = {
            "model": "company-model", "prompt": PROMPT, "max_tokens": NUM_NEW, "temperature": 1.0,
            "seed": number * 1_000_000 + turn, "stream": True, "logprobs": 0,
            "return_token_ids": True,
        }  # fmt: skip
        try:
            async with session.post(f"{url}/v1/completions", json=body) as reply:
                if reply.status != 200:
                    seen.http_5xx += reply.status >= 500
                    seen.dropped += 1
                    continue
                answer = Answer(reply.headers["x-espalier-adapter"])
                if await _read(reply, answer):
                    seen.answers.append(answer)
                else:
                    seen.dropped += 1
        except aiohttp.ClientError:
            seen.dropped += 1


async def _read(reply: aiohttp.ClientResponse, answer: Answer) -> bool:
    """Read a stream; whether it came to its end."""
    last, ended = 0.0, False
    async for raw in reply.content:
        if not raw.startswith(b"data: {"):
            ended = ended or raw.startswith(b"data: [DONE]")
            continue
        event = json.loads(raw[6:])
        if "error" in event:
            return False
        now = time.perf_counter()
        for choice in event["choices"]:
            ids = choice.get("token_ids") or []
            answer.ids += ids
            answer.logprobs += (choice["logprobs"] or {}).get("token_logprobs", [])
            if ids and last:
                answer.gaps_ms.append((now - last) * 1000)
            last = now if ids else last
    return ended


async def _watch(
    session: aiohttp.ClientSession, url: str, stop: asyncio.Event, changes: list[tuple[float, str]]
) -> None:
    """Ask what the alias means, as often as it goes; note (answered at, version) of each change."""
    while not stop.is_set():
        async with session.get(f"{url}/v1/models/company-model") as reply:
            version = reply.headers["x-espalier-adapter"]
        if not changes or changes[-1][1] != version:
            changes.append((time.time(), version))
        await asyncio.sleep(0.001)


async def _flush(path: Path, stop: asyncio.Event, flushes: list[float]) -> None:
    """How long this disk takes to make 4 KiB durable meanwhile, in milliseconds."""

    def flush() -> float:
        began = time.perf_counter()
        file.write(bytes(4096))
        os.fsync(file.fileno())
        return (time.perf_counter() - began) * 1000

    with path.open("wb", buffering=0) as file:
        while not stop.is_set():
            flushes.append(await asyncio.to_thread(flush))
            await asyncio.sleep(0.02)


def _distances(served: ApprovedHome, answers: Sequence[Answer]) -> list[list[float]]:
    """Per answer and token: how far its logprob is from what its stated version says now."""
    engine, by_version = served.engine, {}
    for answer in answers:
        by_version.setdefault(answer.version, []).append(answer)
    rows = []
    for version, group in by_version.items():
        adapter = None if version == "base" else version
        if adapter:
            engine.prepare(adapter, "bench")
        for first in range(0, len(group), 64):
            part = group[first : first + 64]
            scored = engine.score(adapter, [[*PROMPT, *answer.ids] for answer in part])
            for answer, said in zip(part, scored, strict=True):
                own = said[len(PROMPT) - 1 :]
                rows.append([abs(a - b) for a, b in zip(answer.logprobs, own, strict=True)])
        if adapter:
            engine.release(adapter, "bench")
    return rows


def _prepare(kind: str, scratch: Path, settings: dict[str, str]) -> dict[str, Any]:
    """An adapter of 40 MB on a base of SmolLM2's shape."""
    home = Home(scratch / "large")
    home.create()
    base = register(home, scratch / "model", random_model(**_LARGE))
    large = {**settings, "ESPALIER__VLLM__MAX_RANK": str(_LARGE_RANK)}
    served = ApprovedHome(home, base, kind, large)
    adapters = [served.add_adapter(seed, rank=_LARGE_RANK) for seed in range(_PREPARES)]
    size = (home.adapter(adapters[0]) / "adapter_model.safetensors").stat().st_size
    prepares, proofs = [], []
    try:
        served.start("engine")
        served.start("serving")
        served.wait_for(_all_serving)
        engine = served.engine
        rows = [[1, 5, 9, 13, 17, 21, 40, 41], [2, 4, 8, 16, 32, 64, 128]]
        for adapter in adapters:
            began = time.perf_counter()
            engine.prepare(adapter, "bench")
            prepares.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            engine.score(adapter, rows, every_replica=True)
            engine.score(None, rows, every_replica=True)
            proofs.append((time.perf_counter() - began) * 1000)
            engine.release(adapter, "bench")
    finally:
        served.stop()
    return {
        "adapter_mb": round(size / 1e6, 1),
        "prepare_ms": round(statistics.median(prepares), 1),
        "probe_ms": round(statistics.median(proofs), 1),
    }


def _all_serving(health: Health) -> bool:
    facts = health.capabilities
    return facts.get("replicas_serving", 1) == facts["replicas"]


def _p99(values: Sequence[float]) -> float:
    return round(float(np.percentile(values, 99)), 2) if values else float("nan")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
