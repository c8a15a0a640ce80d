"""Agents' keys that the appliance makes for itself and keeps beside its home's other secrets."""

import threading
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from appliance.control import programs
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.digests import hash_key
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.tables import keys
from policies.teaching import TALK

_making = threading.Lock()


def agent_key(home: Home) -> str:
    """The key that `up` prints; a new one where there is none, or it was revoked."""
    database = Database.open(home.database)
    words = ("--team", "default", "--project", "default", "--agent", "default")
    try:
        return _kept(home, home.secrets / "agent.key", words, lambda one: _is_good(database, one))
    finally:
        database.close()


def console_key(ground: Ground) -> str:
    """The key that the console talks with; a new one where there is none, or it is good no more.

    What is said with it is logged like all traffic, and never teaches (policies/teaching.py).
    """
    team, project = TALK
    label = ground.settings.gateway.label
    words = ("--team", team, "--project", project, "--agent", "console", "--label", label)
    # Another label than the endpoint's would be refused there, or too low for what it says.
    right = (keys.c.label == label, keys.c.exact)
    path = ground.home.secrets / "console.key"
    return _kept(
        ground.home, path, (*words, "--exact"), lambda one: _is_good(ground.database, one, *right)
    )


def _kept(home: Home, path: Path, words: tuple[str, ...], is_good: Callable[[str], bool]) -> str:
    """The key in `path`, readable by the home's owner alone."""
    with _making:
        if path.exists() and is_good(secret := path.read_text()):
            return secret
        made = programs.run_now("serving", "key", "add", *words, "--json", home=home)
        publish(path, made["key"].encode(), mode=0o600)
        return str(made["key"])


def _is_good(database: Database, secret: str, *right: sa.ColumnElement[bool]) -> bool:
    good = sa.select(sa.func.count()).where(
        keys.c.key_hash == hash_key(secret), keys.c.revoked_at.is_(None), *right
    )
    with database.read() as connection:
        return bool(connection.scalar(good))
