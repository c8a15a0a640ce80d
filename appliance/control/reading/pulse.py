"""What cannot be read from the database: parts' health, disk, memory, GPU; and what is too long to
count for each page: traffic. One snapshot for everybody, made again when it is some seconds old.
"""

import shutil
import subprocess
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import quantiles
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control import supervisor
from appliance.control.steps import Ground
from appliance.core.tables import trajectories, turns

EVERY_S = 5.0
WINDOW_S = 86_400.0
_TURNS_MAX = 20_000
_GPU_TIMEOUT_S = 5.0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the appliance."""

    name: str
    what: str
    healthy: bool
    pid: int | None
    restarts: int
    memory_mib: float | None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What one adapter (None: the base) did in the last 24 hours, or in the newest 20,000 turns."""

    adapter: str | None
    turns: int
    p50_ms: float
    p95_ms: float
    ok: int
    failed: int
    unknown: int

    @property
    def rate(self) -> float | None:
        """Share of good outcomes among the known ones."""
        known = self.ok + self.failed
        return self.ok / known if known else None


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """One moment."""

    at: float
    up: bool
    parts: tuple[Part, ...]
    disk_used: int
    disk_total: int
    memory_used: int
    memory_total: int
    gpus: tuple[str, ...]
    """Name, use and memory of each, as the driver says it; none where there is no driver."""
    traffic: tuple[Traffic, ...]
    problem: str
    """Why the event log takes nothing, while it does not."""


class PulseTaker:
    """Takes the pulse at most every few seconds, however many ask."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._lock = threading.Lock()
        self._last: Pulse | None = None
        self._taking = False

    def now(self) -> Pulse:
        """The last snapshot; one that is too old is made again behind the reader's back."""
        with self._lock:
            last = self._last
            stale = last is None or time.time() - last.at > EVERY_S
            begin = stale and not self._taking
            self._taking = self._taking or begin
        if begin:
            if last is None:
                return self._take()
            threading.Thread(target=self._take, name="pulse", daemon=True).start()
        return last or _nothing_yet()

    def _take(self) -> Pulse:
        try:
            taken = _take(self._ground)
            with self._lock:
                self._last = taken
            return taken
        finally:
            with self._lock:
                self._taking = False


def _nothing_yet() -> Pulse:
    return Pulse(
        at=0.0, up=False, parts=(), disk_used=0, disk_total=0, memory_used=0, memory_total=0,
        gpus=(), traffic=(), problem="",
    )  # fmt: skip


def _take(ground: Ground) -> Pulse:
    at = time.time()
    state = supervisor.running(ground.home)
    answers = {
        part["name"]: supervisor.health(ground.home, part["name"])
        for part in (state or {}).get("parts", [])
        if part["name"] != "control"  # it is the one that answers just now
    }
    disk = shutil.disk_usage(ground.home.root)
    used, total = _memory()
    serving = answers.get("serving") or {}
    return Pulse(
        at=at,
        up=state is not None,
        parts=tuple(_part(part, answers) for part in (state or {}).get("parts", [])),
        disk_used=disk.total - disk.free,
        disk_total=disk.total,
        memory_used=used,
        memory_total=total,
        gpus=_gpus(),
        traffic=traffic_since(ground, at - WINDOW_S),
        problem=str((serving.get("ingest") or {}).get("problem") or ""),
    )


def _part(part: dict[str, Any], answers: dict[str, Any]) -> Part:
    return Part(
        name=part["name"],
        what=part["what"],
        healthy=part["name"] == "control" or answers[part["name"]] is not None,
        pid=part["pid"],
        restarts=part["restarts"],
        memory_mib=supervisor.memory_mib(part["pid"]),
    )


def traffic_since(ground: Ground, since: float) -> tuple[Traffic, ...]:
    """Turns, latency and outcomes by adapter, of what ended after `since`; busiest first."""
    t, j = turns.c, trajectories.c
    newest = (
        sa.select(t.adapter, t.started_at, t.ended_at)
        .where(t.ended_at >= since)
        .order_by(t.ended_at.desc())
        .limit(_TURNS_MAX)
    )
    judged = (
        sa.select(j.adapter, j.outcome)
        .where(j.last_turn_at >= since, j.state != "merged")
        .order_by(j.last_turn_at.desc())
        .limit(_TURNS_MAX)
    )
    took: dict[str | None, list[float]] = defaultdict(list)
    came: dict[str | None, Counter[str]] = defaultdict(Counter)
    with ground.database.read() as connection:
        for adapter, started, ended in connection.execute(newest):
            took[adapter].append((ended - started) * 1000)
        for adapter, outcome in connection.execute(judged):
            came[adapter][outcome] += 1
    return tuple(
        Traffic(
            adapter=adapter,
            turns=len(times),
            p50_ms=_percentile(times, 50),
            p95_ms=_percentile(times, 95),
            ok=came[adapter]["ok"],
            failed=came[adapter]["failed"],
            unknown=came[adapter]["unknown"],
        )
        for adapter, times in sorted(took.items(), key=lambda pair: -len(pair[1]))
    )


def _percentile(values: list[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _memory() -> tuple[int, int]:
    """Bytes used and there, of the machine."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"] - found["MemAvailable"], found["MemTotal"]


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    query = "--query-gpu=name,utilization.gpu,memory.used,memory.total"
    try:
        said = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ("the driver does not answer",)
    return tuple(line.strip() for line in said.stdout.splitlines() if line.strip())
