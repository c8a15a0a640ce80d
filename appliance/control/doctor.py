"""`espalier doctor`: what is wrong, and how to mend it."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from appliance.control import supervisor
from appliance.control.bases import require_base
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import EspalierError, NotFoundError
from appliance.core.home import Home
from appliance.core.settings import Settings, load_settings
from appliance.core.tables import feedback, trajectories, turns

_MIN_FREE_MIB = 2048
_FEEDBACK_DAYS = 7
"""Feedback older than this that still waits for its target is no news any more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `mend` says what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def examine(home: Home) -> Iterator[Finding]:
    """Every check, in the order in which things are needed."""
    try:
        Home.existing(home.root)
    except NotFoundError as error:
        yield Finding("home", False, error.message, error.next_step)
        return
    yield _home(home)
    yield _settings(home)
    yield _disk(home)
    yield _sandbox()
    yield from _named(home)
    if home.database.exists():
        yield _audit(home)
        yield _feedback(home)
    yield from _processes(home)


def _home(home: Home) -> Finding:
    if home.root.stat().st_mode & 0o077:
        return Finding(
            "home", False, f"others may enter {home.root}", f"chmod 700 {home.root}; up does it too"
        )
    return Finding("home", True, str(home.root))


def _settings(home: Home) -> Finding:
    try:
        settings = load_settings(home)
    except EspalierError as error:
        return Finding("settings", False, error.message, error.next_step or "espalier config show")
    python = home.root / settings.vllm.python
    if settings.engine.kind == "vllm" and settings.vllm.start and not python.exists():
        return Finding(
            "settings", False, f"[vllm] python: there is no {python}",
            "docs/serving.md says how to install vLLM beside the appliance",
        )  # fmt: skip
    return Finding("settings", True, "every key is known")


def _named(home: Home) -> Iterator[Finding]:
    """What the settings name and something else must have or leave: a base, and ports."""
    try:
        settings = load_settings(home)
    except EspalierError:
        return
    try:
        require_base(home, settings.engine.base)
        yield Finding("base", True, f"{settings.engine.base} is registered")
    except EspalierError as error:
        yield Finding("base", False, error.message, error.next_step or "espalier base list")
    # One that is up has its ports itself.
    if supervisor.running(home) is not None:
        return
    try:
        supervisor.take_ports(settings)
        yield Finding("ports", True, "the gateway's and the console's can be had")
    except EspalierError as error:
        yield Finding("ports", False, error.message, error.next_step)


def _disk(home: Home) -> Finding:
    # The event log may lie on a disk of its own.
    places = [place for place in (home.root, home.log) if place.exists()]
    free_mib, tightest = min((shutil.disk_usage(place).free / 2**20, place) for place in places)
    detail = f"{free_mib:,.0f} MiB free in {tightest}"
    if free_mib < _MIN_FREE_MIB:
        return Finding("disk", False, detail, f"keep at least {_MIN_FREE_MIB} MiB free")
    return Finding("disk", True, detail)


def _sandbox() -> Finding:
    if shutil.which("bwrap"):
        return Finding("sandbox", True, "bubblewrap is here")
    return Finding(
        "sandbox",
        False,
        "no bubblewrap: model-written code runs in UnsafeProcessSandbox",
        "install the package bubblewrap",
    )


def _audit(home: Home) -> Finding:
    database = Database.open(home.database)
    try:
        with database.read() as connection:
            count = audit.verify(connection)
    except EspalierError as error:
        return Finding("audit", False, error.message, "restore the database from a backup")
    finally:
        database.close()
    return Finding("audit", True, f"{count} entries, chain intact")


def _feedback(home: Home) -> Finding:
    """Feedback may come before its target; where the target does not come, an id is wrong."""
    try:
        patience_s = load_settings(home).assembly.idle_s
    except EspalierError:
        patience_s = Settings().assembly.idle_s
    now = time.time()
    database = Database.open(home.database)
    try:
        with database.read() as connection:
            waiting = connection.execute(
                sa.select(feedback.c.turn_id, feedback.c.trajectory_id, feedback.c.session)
                .where(
                    feedback.c.at.between(now - _FEEDBACK_DAYS * 86400, now - patience_s),
                    feedback.c.reference.is_(None),
                    ~sa.exists().where(turns.c.turn_id == feedback.c.turn_id),
                    ~sa.exists().where(turns.c.session == feedback.c.session),
                    ~sa.exists().where(trajectories.c.trajectory_id == feedback.c.trajectory_id),
                )
                .order_by(feedback.c.at.desc())
            ).all()
    finally:
        database.close()
    if not waiting:
        return Finding("feedback", True, "all of it is about something that is here")
    named = next(f"{name} {value}" for name, value in waiting[0]._mapping.items() if value)
    return Finding(
        "feedback",
        False,
        f"{len(waiting)} wait for what has not come, the last for {named[:80]}",
        "check the ids that your agents send (turn_id is the answer's id); "
        "it is kept, and counts once its target comes",
    )


def _processes(home: Home) -> Iterator[Finding]:
    state = supervisor.running(home)
    if state is None:
        yield Finding("appliance", False, "not running", "espalier up")
        return
    for part in state["parts"]:
        answers = supervisor.health(home, part["name"]) is not None
        log = home.process_logs / f"{part['name']}.log"
        detail = f"pid {part['pid']}, restarted {part['restarts']} times"
        yield Finding(part["name"], answers, detail, "" if answers else f"read {log}")
    if problem := ((supervisor.health(home, "serving") or {}).get("ingest") or {}).get("problem"):
        yield Finding(
            "event log",
            False,
            f"it takes nothing, so agents are answered 503: {problem}",
            "free some space, or mend the broker; what was acknowledged is safe, the rest waits",
        )
