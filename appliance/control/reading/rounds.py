"""A round on its way: steps, progress and time left, the learning curve, its programs' words."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading import words
from appliance.control.reading.gains import Gain, gains_of
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground
from appliance.core.audit import Entry
from appliance.core.tables import audit
from policies.access import Act
from policies.lifecycle import State

PAGE = 50
_PAST = 20
_LOG_BYTES = 16_384
_POINTS_MAX = 400
_STEPS = ("collecting", "curating", "training", "evaluating", "awaiting_approval", "releasing")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some rounds, newest first."""

    rounds: tuple[Round, ...]
    gains: tuple[Gain, ...]
    before: int | None
    """Ask for the next page with it."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step that the round went through, or is at."""

    name: str
    at: float
    took_s: float | None


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """All of a round's own page."""

    round: Round
    review: dict[str, Any]
    steps: tuple[Step, ...]
    curve: tuple[dict[str, Any], ...]
    """Points of the learning curve, thinned to 400."""
    gain: Gain
    past: tuple[Gain, ...]
    """Rounds up to this one, oldest first, that got as far as a scorecard."""
    log: tuple[tuple[str, str], ...]
    """(program, the last words of what it wrote)."""
    history: tuple[Entry, ...]


def page(ground: Ground, person: Person, before: int | None) -> Page:
    """Fifty rounds with numbers below `before`."""
    person.require(Act.VIEW)
    found = Rounds(ground.database).some(before=before, limit=PAGE + 1)
    shown = found[:PAGE]
    return Page(
        rounds=tuple(words.seen(ground, person, one) for one in shown),
        gains=tuple(gains_of(ground, shown)),
        before=shown[-1].round if len(found) > PAGE else None,
    )


def detail(ground: Ground, person: Person, number: int) -> Detail:
    """One round.

    Raises:
        NotFoundError: there is none of that number.
    """
    person.require(Act.VIEW)
    rounds = Rounds(ground.database)
    round_ = rounds.get(number)
    work = ground.home.rounds / str(number)
    past = gains_of(ground, rounds.some(before=number + 1, limit=_PAST))
    history = history_of(ground, number)
    return Detail(
        round=words.seen(ground, person, round_),
        review=words.reviewed(ground, person, round_),
        steps=_steps(history, round_),
        curve=_curve(work / "curve.jsonl"),
        gain=past[0],
        past=tuple(reversed([gain for gain in past if gain.target is not None])),
        log=_log(work) if words.reads(ground, person) else (),
        history=tuple(words.entries(ground, person, history)),
    )


def history_of(ground: Ground, number: int) -> tuple[Entry, ...]:
    """The audit log's entries about a round, in order."""
    query = (
        sa.select(audit)
        .where(audit.c.act.like("round.%"), audit.c.subject == str(number))
        .order_by(audit.c.sequence)
    )
    with ground.database.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        Entry(**{**row._mapping, "detail": msgspec.json.decode(row.detail)}) for row in rows
    )


def _steps(history: tuple[Entry, ...], round_: Round) -> tuple[Step, ...]:
    moves = [entry for entry in history if entry.act.removeprefix("round.") in list(State)]
    ends = [*(entry.at for entry in moves[1:]), None]
    found = [
        Step(
            name=entry.act.removeprefix("round."),
            at=entry.at,
            took_s=None if end is None else end - entry.at,
        )
        for entry, end in zip(moves, ends, strict=False)  # before the first move there is none
    ]
    return tuple(step for step in found if step.name in _STEPS or step.name == round_.state)


def _curve(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    stride = max(1, -(-len(lines) // _POINTS_MAX))
    chosen = [*lines[:-1:stride], *lines[-1:]]
    points = []
    for line in chosen:
        try:
            points.append(json.loads(line))
        except ValueError:
            continue  # the last line, still being written
    return tuple(points)


def _log(work: Path) -> tuple[tuple[str, str], ...]:
    found = []
    for name in ("curate", "train", "run"):
        path = work / f"{name}.err"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            continue
        lines = deque(text.replace("\r", "\n").splitlines(), maxlen=200)
        if any(line.strip() for line in lines):
            found.append(("evaluate" if name == "run" else name, "\n".join(lines)))
    return tuple(found)
