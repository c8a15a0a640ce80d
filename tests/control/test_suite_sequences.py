"""Any sequence of acts on a protected suite: it changes by another approver's signature alone."""

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from appliance.control import law
from appliance.control.acting import proposals as deciding
from appliance.control.acting import suites
from appliance.control.acting.proposals import Proposed
from appliance.control.acting.suites import Keep
from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import EspalierError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from policies.access import Act

PEOPLE = [
    Person(name=f"{role}{number}", role=role, label="internal", fresh=fresh)
    for role in ("viewer", "operator", "approver", "admin")
    for number in (1, 2)
    for fresh in (False, True)
]
person = st.sampled_from(PEOPLE)
kind = st.sampled_from(["protected", "target", "canary"])
number = st.integers(1, 4)
_homes = itertools.count()


def text_of(kind: str, number: int) -> str:
    item = {"item_id": str(number), "family": "f", "messages": [{"role": "user", "content": "q"}]}
    item["check"] = {"kind": "exact", "expected": "a"}
    return json.dumps({"suite": "sums", "kind": kind}) + "\n" + json.dumps(item) + "\n"


class Suites(RuleBasedStateMachine):
    proposed = Bundle("proposed")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="suites-")
        home = Home(Path(self.folder.name) / str(next(_homes)))
        home.create()
        self.database = Database.open(home.database)
        self.ground = Ground(home, Settings(), self.database, ObjectStore(home.objects))
        self.before: tuple[str | None, str | None] = (None, None)
        self.signed: law.Entry | None = None

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def now(self) -> tuple[str | None, str | None]:
        with self.database.read() as connection:
            entry = law.in_force_now(connection, "suite", "sums")
        return (entry.object if entry else None, law.suite_kind(self.ground.store, entry))

    def attempt(self, act: Any, *args: Any, **named: Any) -> Any:
        try:
            return act(self.ground, *args, **named)
        except EspalierError:
            return None

    @initialize()
    def begin(self) -> None:
        suites.change(self.ground, PEOPLE[4], "sums", text_of("protected", 0))
        self.before = self.now()

    @rule(target=proposed, who=person, kind=kind, number=number)
    def change(self, who: Person, kind: str, number: int) -> int:
        made = self.attempt(suites.change, who, "sums", text_of(kind, number))
        return made.proposed if isinstance(made, Proposed) else 0

    @rule(target=proposed, who=person)
    def repeal(self, who: Person) -> int:
        made = self.attempt(suites.repeal, who, "sums")
        return made.proposed if made else 0

    @rule(target=proposed, who=person, number=number)
    def keep(self, who: Person, number: int) -> int:
        message = {"role": "user", "content": str(number)}
        check = {"kind": "exact", "expected": "a"}
        kept = self.attempt(suites.keep, who, Keep(suite="sums", messages=[message], check=check))
        return (kept.proposed or 0) if kept else 0

    @rule(who=person, which=proposed)
    def accept(self, who: Person, which: int) -> None:
        self.signed = self.attempt(deciding.accept, who, which)
        if self.signed is not None:
            assert who.fresh
            assert who.may(Act.ACCEPT_SUITE)
            assert self.signed.actor != who.name == self.signed.accepted_by

    @rule(who=person, which=proposed)
    def decline(self, who: Person, which: int) -> None:
        self.attempt(deciding.decline, who, which)

    @invariant()
    def a_protected_suite_changes_by_a_signature_alone(self) -> None:
        now, signed = self.now(), self.signed
        if now != self.before and self.before[1] == "protected":
            assert signed is not None
            assert (now[0] or "") == signed.object
        self.before, self.signed = now, None

    @invariant()
    def the_audit_log_is_whole(self) -> None:
        with self.database.read() as connection:
            audit.verify(connection)


def test_any_sequence_of_acts_on_a_protected_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    for module in (suites, deciding):
        monkeypatch.setattr(module, "require_sound_suite", lambda *_: None)
    run_state_machine_as_test(
        Suites,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
