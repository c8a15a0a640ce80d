"""`espalier doctor`: what is wrong, and how to mend it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.control import supervisor
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import EspalierError
from appliance.core.home import Home
from appliance.core.settings import load_settings

_MIN_FREE_MIB = 2048


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `mend` says what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def examine(home: Home) -> Iterator[Finding]:
    """Every check, in the order in which things are needed."""
    if not home.root.exists():
        yield Finding("home", False, f"{home.root} does not exist", "espalier up makes it")
        return
    yield Finding("home", True, str(home.root))
    yield _settings(home)
    yield _disk(home)
    yield _sandbox()
    if home.database.exists():
        yield _audit(home)
    yield from _processes(home)


def _settings(home: Home) -> Finding:
    try:
        load_settings(home)
    except EspalierError as error:
        return Finding("settings", False, error.message, error.next_step or "espalier config show")
    return Finding("settings", True, "every key is known")


def _disk(home: Home) -> Finding:
    free_mib = shutil.disk_usage(home.root).free / 2**20
    detail = f"{free_mib:,.0f} MiB free"
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
