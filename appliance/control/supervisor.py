"""Starts the appliance's processes, restarts the ones that die, ends them together.

Not here: what each process does. They meet through records and sockets, never through us.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.control import local_http, programs
from appliance.core.errors import ConflictError, EspalierError, UnavailableError
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.settings import Settings, load_settings

log = logging.getLogger(__name__)

_TICK_S = 0.1
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 15.0
"""Whoever ran for so long has come up, and is started again at once."""
_HOPELESS = 2
"""Restarts in a row, before it ever answered, after which `up` gives up."""
_GRACE_S = 15.0
START_TIMEOUT_S = 120.0
VLLM_START_TIMEOUT_S = 900.0
"""Its processes import for a minute, and compile on a GPU for some more."""


@dataclass(slots=True)
class Part:
    """One process of the appliance."""

    name: str
    module: str
    what: str
    child: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0
    failures: int = 0
    """Restarts in a row, without having run steadily in between."""
    start_after: float = 0.0
    started_at: float = field(default=0.0)


def parts(settings: Settings) -> list[Part]:
    """In the order that they start; ended in reverse."""
    log_kind = "real: Apache Kafka" if settings.log.kind == "kafka" else "embedded log"
    engine = "appliance.engine.vllm" if settings.engine.kind == "vllm" else "appliance.inference"
    return [
        Part("engine", engine, f"{settings.engine.kind} engine"),
        Part("collectors", "collectors", f"assembly on the {log_kind}"),
        Part("serving", "serving", "gateway and releases"),
        Part("control", "appliance.control", "rounds and API (embedded database: SQLite)"),
    ]


class Supervisor:
    """Runs until SIGTERM or SIGINT."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._settings = load_settings(home)
        self._parts = parts(self._settings)
        self._stop = threading.Event()

    def run(self) -> None:
        """Start everything, keep it running, end it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        try:
            while not self._stop.is_set():
                changed = [self._tend(part) for part in self._parts]
                if any(changed):
                    self._write_state()
                self._stop.wait(_TICK_S)
        finally:
            self._end()

    def _tend(self, part: Part) -> bool:
        """Start the part if it does not run and its time has come; whether anything changed."""
        if part.child is not None:
            code = part.child.poll()
            if code is None:
                return False
            log.warning("%s ended with %d", part.name, code)
            now = time.monotonic()
            if now - part.started_at > _STEADY_S:
                part.failures = 0
            part.start_after = now + _BACKOFF_S[min(part.failures, len(_BACKOFF_S) - 1)]
            part.failures += 1
            part.restarts += 1
            part.child = None
            return True
        if time.monotonic() < part.start_after:
            return False
        threads = self._settings.engine.threads if part.name == "engine" else 1
        part.child = programs.start(
            part.module,
            "serve",
            "--home",
            str(self._home.root),
            home=self._home,
            log=self._home.process_logs / f"{part.name}.log",
            threads=threads,
        )
        part.started_at = time.monotonic()
        return True

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "gateway": [self._settings.gateway.host, self._settings.gateway.port],
            "control": [self._settings.control.host, self._settings.control.port],
            "parts": [
                {
                    "name": p.name,
                    "what": p.what,
                    "pid": p.child.pid if p.child else None,
                    "restarts": p.restarts,
                }
                for p in self._parts
            ],
        }
        publish(state_file(self._home), json.dumps(state).encode())

    def _end(self) -> None:
        for part in reversed(self._parts):
            if part.child is None or part.child.poll() is not None:
                continue
            part.child.terminate()
            try:
                part.child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                log.warning("%s did not end in %.0f s and is killed", part.name, _GRACE_S)
                part.child.kill()
                part.child.wait()
        state_file(self._home).unlink(missing_ok=True)


def state_file(home: Home) -> Path:
    """Where a running supervisor says what it started."""
    return home.run / "appliance.json"


def running(home: Home) -> dict[str, Any] | None:
    """The state that a live supervisor wrote; None when the appliance is down."""
    try:
        state: dict[str, Any] = json.loads(state_file(home).read_bytes())
        words = Path(f"/proc/{state['pid']}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    # A dead one that nobody waited for has no command line; after a restart of the machine, its
    # number may be somebody else's.
    return state if b"supervise" in words else None


def take_ports(settings: Settings) -> dict[str, str]:
    """Environment overrides with real ports where the settings say 0.

    Raises:
        ConflictError: a port that the settings name is in use.
    """
    chosen = {}
    # Held together, so that two that are free are not the same one.
    with ExitStack() as held:
        for name, section in (("GATEWAY", settings.gateway), ("CONTROL", settings.control)):
            family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
            listener = held.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((section.host, section.port))
            except OSError as error:
                raise ConflictError(
                    f"port {section.port} on {section.host} cannot be had: {error.strerror}",
                    next_step=f"set [{name.lower()}] port in espalier.toml (0 takes a free one), "
                    f"or ESPALIER__{name}__PORT",
                ) from error
            chosen[f"ESPALIER__{name}__PORT"] = str(listener.getsockname()[1])
    return chosen


def health(home: Home, name: str) -> dict[str, Any] | None:
    """What a part says of itself; None while it does not answer."""
    try:
        if name == "control":
            state = running(home)
            if state is None:
                return None
            answer = local_http.over_port(state["control"], "GET", "/livez", timeout_s=2.0)
        else:
            answer = local_http.over_socket(home.socket(name), "GET", "/health", timeout_s=2.0)
    except EspalierError:
        return None
    return answer if isinstance(answer, dict) else None


def wait_until_ready(home: Home, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """The state, once every part answers.

    Raises:
        UnavailableError: a part did not come up; names it and its log.
    """
    vllm = load_settings(home).engine.kind == "vllm"
    deadline = time.monotonic() + (VLLM_START_TIMEOUT_S if vllm else START_TIMEOUT_S)
    while time.monotonic() < deadline:
        state = running(home)
        if process.poll() is not None:
            raise UnavailableError(
                "the supervisor ended", next_step=f"read {home.process_logs / 'supervisor.log'}"
            )
        if state is not None:
            if all(health(home, part["name"]) is not None for part in state["parts"]):
                return state
            hopeless = [p["name"] for p in state["parts"] if p["restarts"] >= _HOPELESS]
            if hopeless:
                failing = hopeless[0]
                break
        time.sleep(0.1)
    else:
        failing = next(
            (
                p["name"]
                for p in (running(home) or {}).get("parts", [])
                if health(home, p["name"]) is None
            ),
            "supervisor",
        )
    raise UnavailableError(
        f"{failing} does not come up: {_last_line(home, failing)}",
        next_step=f"read {home.process_logs / failing}.log, then espalier doctor",
    )


def _last_line(home: Home, name: str) -> str:
    try:
        lines = (home.process_logs / f"{name}.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "it wrote no log"
    # The step that an error names stands on a line of its own below it.
    said = (line for line in reversed(lines) if line.strip() and not line.startswith("  next: "))
    return next(said, "its log is empty")


def memory_mib(pid: int | None) -> float | None:
    """Resident memory of a process, in MiB; None where it is gone."""
    try:
        with Path(f"/proc/{pid}/status").open() as status:
            line = next(row for row in status if row.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) / 1024
