"""A control plane without its processes: real database, real acts, real checks of serving.

Nothing is written that a restart would need, so it lies in memory and is emptied between sequences.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import argon2
import msgspec
import sqlalchemy as sa

from appliance.control import local_http, people, sessions, steps, tokens
from appliance.control.acting import decisions as deciding
from appliance.control.acting import law as making_law
from appliance.control.acting import people as managing
from appliance.control.acting import proposals as proposing
from appliance.control.acting import rounds as running
from appliance.control.acting import suites as changing_suites
from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.decisions import Release
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from serving import journal
from serving.vetting import Vetting

ALIAS = "company-model"
PASSPHRASE = "long enough for a test"
GATES = 'schema = "gates/1"\nname = "{name}"\n[[gate]]\nname = "g"\nkind = "target"\nmargin = 0.1\n'
SUITE = (
    '{{"suite": "{name}", "kind": "{kind}"}}\n{{"item_id": "{item}", "family": "f", "messages": '
    '[{{"role": "user", "content": "q"}}], "check": {{"kind": "exact", "expected": "a"}}}}\n'
)
STAFF = {
    "ada": "admin",
    "olga": "operator",
    "bela": "approver",
    "carl": "approver",
    "dora": "approver",
    "vera": "viewer",
}
FIRST_LAW = (
    ("recipe", "recipe", 'schema = "recipe/1"\n'),
    ("gates", "gates", GATES.format(name="one")),
    ("suite", "t", SUITE.format(name="t", kind="target", item=1)),
    ("suite", "p", SUITE.format(name="p", kind="protected", item=1)),
)


@dataclass
class World:
    """Where a sequence plays."""

    ground: Ground
    door: people.Passphrases
    cookies: sessions.Sessions
    now: float = 1_000.0
    served: list[Release] = field(default_factory=list)
    _first_day: sqlite3.Connection | None = None
    _replaced: list[tuple[Any, str, Any]] = field(default_factory=list)

    @classmethod
    def make(cls) -> "World":
        """One for all sequences of a process."""
        root = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
        home = Home(Path(tempfile.mkdtemp(prefix="law-", dir=root)))
        home.create()
        database = Database.open(home.database)
        sa.event.listen(database.engine, "connect", _hurry)
        database.engine.dispose()
        ground = Ground(home, Settings(), database, ObjectStore(home.objects))
        world = cls(ground, people.Passphrases(database), cls._sessions(database))
        # Argon2 is what it is; here its cost would be all that is measured.
        hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        world._replace(people, "_HASHER", hasher)
        world._replace(people, "_NOBODY", hasher.hash("nobody"))
        clock = SimpleNamespace(time=lambda: world.now)
        for module in (deciding, making_law, changing_suites, managing, proposing, running, steps):
            world._replace(module, "time", clock)
        for module in (changing_suites, proposing):
            world._replace(module, "require_sound_suite", lambda *_: None)  # it starts a program
        world._replace(local_http, "over_socket", world._serving)  # no process behind it
        return world

    def leave(self) -> None:
        """Put back whatever was replaced, and remove the folder."""
        for owner, name, was in reversed(self._replaced):
            setattr(owner, name, was)
        self.ground.database.close()
        shutil.rmtree(self.ground.home.root)

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    @staticmethod
    def _sessions(database: Database) -> sessions.Sessions:
        return sessions.Sessions(database, idle_s=3_600.0, most_s=43_200.0)

    def begin(self) -> None:
        """As on the first day: what `first_day` left in the database, and nothing else."""
        self.now, self.served = 1_000.0, []
        if self._first_day is None:
            for name, role in STAFF.items():
                self.add(name, role)
            for kind, name, text in FIRST_LAW:
                ask = making_law.Text(text=text)
                olga = self.as_signed_in("olga", "passphrase")
                making_law.set_article(self.ground, olga, kind, name, ask)
            self._first_day = sqlite3.connect(":memory:")
            with closing(sqlite3.connect(self.ground.database.path)) as there:
                there.backup(self._first_day)
        with closing(sqlite3.connect(self.ground.database.path)) as there:
            self._first_day.backup(there)

    def add(self, name: str, role: str) -> None:
        """Make a person."""
        people.add(
            self.ground.database,
            name=name,
            role=role,
            passphrase=PASSPHRASE,
            actor="os",
            at=self.now,
        )

    def as_signed_in(self, name: str, how: str) -> Person:
        """A person who came by `how`: passphrase, wrong passphrase, session or token."""
        if how in ("passphrase", "wrong"):
            given = PASSPHRASE if how == "passphrase" else "not the right passphrase"
            return self.door.sign_in(name=name, passphrase=given, at=self.now)
        person = self.door.sign_in(name=name, passphrase=PASSPHRASE, at=self.now)
        if how == "session":
            cookie = self.cookies.open(person, at=self.now)
            session = self.cookies.find(cookie, at=self.now)
            assert session is not None
            return session.person
        secret, _ = tokens.issue(
            self.ground.database,
            person,
            purpose="t",
            acts=["view", "comment"],
            days=1.0,
            at=self.now,
        )
        return tokens.bearer(self.ground.database, secret, at=self.now)

    def _serving(self, _: Path, method: str, route: str, body: Any = None, **__: Any) -> Any:
        """What serving's private API does, with its own checks and its own journal."""
        last = journal.current(self.ground.database, ALIAS)
        generation = last.generation if last else 0
        if (method, route) == ("GET", "/releases"):
            return {"generation": generation}
        assert (method, route) == ("POST", "/release")
        vetting = object.__new__(Vetting)
        vetting._database = self.ground.database
        vetting._objects = self.ground.store
        vetting._settings = self.ground.settings
        vetting._require_approved(
            body["round"], body["adapter"], tuple(body["approvals"]), self.now
        )
        moved = Release(
            alias=ALIAS,
            generation=generation + 1,
            adapter=body["adapter"],
            previous=last.adapter if last else None,
            reason="release",
            approvals=tuple(body["approvals"]),
            actor=body["actor"],
            at=self.now,
        )
        self.served.append(journal.append(self.ground.database, moved))
        return {"release": msgspec.to_builtins(moved)}


def _hurry(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")
