"""Living suites: changing one, and keeping a test in one. Proposals are in acting/proposals.py."""

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from appliance.control import law
from appliance.control.acting.proposals import Proposed, Waiting, own_waiting, propose
from appliance.control.identity import Person
from appliance.control.law import REPEALED, Entry
from appliance.control.steps import Ground
from appliance.control.suite_check import require_sound_suite
from appliance.core.digests import digest_json
from appliance.core.errors import ConflictError, RecordError, UsageError
from appliance.core.records import Item, Json
from policies.access import Act
from policies.suites import needs_approver

MAX_MESSAGES = 400
ITEM_MAX_BYTES = 1 << 20
_ROLES = ("system", "user", "assistant", "tool")
_TRIES = 50


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test to keep: a prompt, how its answer is judged, and where."""

    suite: str
    """The article's name. One that does not exist is made, as a living suite."""
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_MESSAGES)]
    check: Json
    """An exact text, or a program; see the suite file in docs/first-hour.md."""
    family: Annotated[str, Meta(min_length=1, max_length=64)] = "kept"
    language: Annotated[str, Meta(pattern="^[A-Za-z0-9-]{0,35}$")] = ""
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 16)] = 256
    reason: Annotated[str, Meta(max_length=1000)] = ""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a test."""

    suite: str
    item_id: str
    object: str
    """The version that holds it; of a proposal, the version that would."""
    added: bool
    """False: it was there already."""
    proposed: int | None = None
    """The proposal that an approver decides about, where the suite is protected."""


def change(
    ground: Ground, person: Person, name: str, text: str, *, reason: str = ""
) -> Entry | Proposed:
    """Put a suite in force; where a protected one is, propose it.

    Raises:
        UsageError, RecordError: it is malformed, or evaluation would not take it.
        ConflictError: a protected suite in force says the same.
    """
    person.require(Act.CHANGE_LAW)
    data = text.encode("utf-8", "surrogatepass")
    law.require_well_formed("suite", name, data)
    require_sound_suite(ground, name, text)
    before = _in_force(ground, name)
    if before is not None and needs_approver(law.suite_kind(ground.store, before)):
        return propose(ground, person, before, ground.store.put(data), reason=reason)
    return law.change(
        ground.database,
        ground.store,
        kind="suite",
        name=name,
        text=data,
        actor=person.name,
        at=time.time(),
    )


def repeal(ground: Ground, person: Person, name: str, *, reason: str = "") -> Proposed | None:
    """Take a suite out of force; where it is protected, propose to.

    Raises:
        NotFoundError: no such suite is in force.
    """
    person.require(Act.CHANGE_LAW)
    before = _in_force(ground, name)
    if before is not None and needs_approver(law.suite_kind(ground.store, before)):
        return propose(ground, person, before, REPEALED, reason=reason)
    law.repeal(
        ground.database, ground.store, kind="suite", name=name, actor=person.name, at=time.time()
    )
    return None


def keep(ground: Ground, person: Person, ask: Keep) -> Kept:
    """Add a test to a living suite. The same test twice is one.

    In a protected suite it is proposed; what the same person has proposed of that suite and nobody
    has decided about yet is in the new proposal, which takes the older one's place.

    Raises:
        UsageError, RecordError: no name for a suite, or no test; nothing changed.
        ConflictError: others change the suite all the time.
    """
    person.require(Act.KEEP_TEST)
    name, item = ask.suite.strip(), make_item(ask)
    line = msgspec.json.encode(item)
    sound_under: bytes | None = None
    for _ in range(_TRIES):
        stand = _stand(ground, person, name)
        if stand.head != sound_under:
            alone = stand.head + b"\n" + line + b"\n"
            law.require_well_formed("suite", name, alone)
            require_sound_suite(ground, name, alone.decode())
            sound_under = stand.head
        if item.item_id in _ids(stand.held):
            return stand.kept(item)
        text = b"\n".join([stand.head, *stand.held, line, b""])
        try:
            return _enact(ground, person, stand, text, item, ask.reason)
        except ConflictError:
            # Somebody else kept a test at the same moment: theirs stays, ours goes behind it.
            continue
    raise ConflictError(f"suite {name} changes too fast", next_step="keep the test again")


def make_item(ask: Keep) -> Item:
    """The item that is asked for; its id says what is in it.

    Raises:
        RecordError, UsageError: the messages are no prompt, or any answer would be right.
    """
    for message in ask.messages:
        if message.get("role") not in _ROLES:
            raise RecordError(f"a message's role is one of {', '.join(_ROLES)}")
    if ask.messages[-1]["role"] == "assistant":
        raise RecordError("a test's prompt ends before the answer, not with one")
    check = ask.check
    exact = isinstance(check, dict) and check.get("kind") == "exact"
    if exact and not str(check.get("expected") or "").strip():
        raise UsageError("the expected answer is empty", next_step="say what it should be")
    content = {"messages": ask.messages, "check": check}
    item = Item(
        item_id="kept-" + digest_json(content).removeprefix("sha256:")[:16],
        family=ask.family,
        messages=tuple(ask.messages),
        check=check,
        max_tokens=ask.max_tokens,
        language=ask.language,
    )
    if len(msgspec.json.encode(item)) > ITEM_MAX_BYTES:
        raise RecordError(f"a test has at most {ITEM_MAX_BYTES >> 20} MiB")
    return item


class _Stand(msgspec.Struct, frozen=True, kw_only=True):
    """What a test is added to."""

    name: str
    before: Entry | None
    """The version in force."""
    own: Waiting | None
    """The person's own proposal to change it."""
    protected: bool
    head: bytes
    held: list[bytes]

    def kept(self, item: Item) -> Kept:
        """That the test is there already."""
        of = self.own or self.before
        return Kept(
            suite=self.name,
            item_id=item.item_id,
            object=of.object if of else "",
            added=False,
            proposed=self.own.number if self.own else None,
        )


def _stand(ground: Ground, person: Person, name: str) -> _Stand:
    before = _in_force(ground, name)
    if before is None:
        head = msgspec.json.encode({"suite": name, "kind": "living"})
        return _Stand(name=name, before=None, own=None, protected=False, head=head, held=[])
    protected = needs_approver(law.suite_kind(ground.store, before))
    own = own_waiting(ground, person, before) if protected else None
    head, *rest = ground.store.get((own or before).object).splitlines()
    held = [line for line in rest if line.strip()]
    return _Stand(name=name, before=before, own=own, protected=protected, head=head, held=held)


def _enact(
    ground: Ground, person: Person, stand: _Stand, text: bytes, item: Item, reason: str
) -> Kept:
    if stand.before is not None and stand.protected:
        why = reason or f"keep the test {item.item_id}"
        digest = ground.store.put(text)
        made = propose(ground, person, stand.before, digest, reason=why, instead_of=stand.own)
        version, number = made.object, made.proposed
    else:
        entry = law.change(
            ground.database,
            ground.store,
            kind="suite",
            name=stand.name,
            text=text,
            actor=person.name,
            at=time.time(),
            replaces=stand.before.object if stand.before else None,
            kept=item.item_id,
        )
        version, number = entry.object, None
    return Kept(suite=stand.name, item_id=item.item_id, object=version, added=True, proposed=number)


def _in_force(ground: Ground, name: str) -> Entry | None:
    with ground.database.read() as connection:
        return law.in_force_now(connection, "suite", name)


class _Known(msgspec.Struct):
    item_id: str
    check: Json


def _ids(held: list[bytes]) -> set[str]:
    """Ids of the items that are there.

    Raises:
        RecordError: they are judged by likelihood, which one suite does not mix.
    """
    known = [msgspec.json.decode(line, type=_Known) for line in held]
    if any(isinstance(one.check, dict) and one.check.get("kind") == "likelihood" for one in known):
        raise RecordError(
            "this suite is judged by likelihood: a test that asks cannot stand in it",
            next_step="keep it in another suite",
        )
    return {one.item_id for one in known}
