"""Killed after sealing: the round goes on by itself and ends with the same adapter."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from appliance.control.rounds import Round, Rounds
from appliance.control.steps import approvals_of
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import short
from appliance.core.home import Home
from appliance.demo.house import CommandError, House
from policies.lifecycle import State
from tests.storm.ground import APPROVERS, OPERATOR
from tests.storm.plan import Kill
from tests.storm.victims import STEPS, StormError, Victims
from tests.storm.voice import Voice

_TICK_S = 0.02
_FINE_TICK_S = 0.002
_ROUND_TIMEOUT_S = 300.0
_TRIES = 4
_PATIENCE_S = 60.0
_MOMENT_S = 0.5
_SECONDS = {"awaiting_approval": _MOMENT_S, "releasing": 0.1}
"""How long kills wait in the states that the reference round does not pass through by itself."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a round makes that nobody disturbs, and how long it is in each state."""

    round: Round
    seconds: dict[str, float]


class StormAfter:
    """Round after round on the same sealed trajectories."""

    def __init__(self, house: House, voice: Voice) -> None:
        self.different = 0
        self._house = house
        self._home = Home(house.home)
        self._voice = voice
        self._victims = Victims(house)
        self._database = Database.open(self._home.database)
        self._rounds = Rounds(self._database)

    def run(self, kills: Sequence[Kill]) -> None:
        """The reference, then one round per kill.

        Raises:
            StormError: a round does not end, or a part does not come back.
        """
        reference = self._reference()
        for kill in kills:
            self._strike(kill, reference)
        self._database.close()

    def _reference(self) -> Reference:
        number = self._start_round()
        seconds: dict[str, float] = {}
        state, since = "created", time.monotonic()
        while not _stands(round_ := self._rounds.get(number)):
            if round_.state != state:
                seconds[state] = time.monotonic() - since
                state, since = str(round_.state), time.monotonic()
            time.sleep(_TICK_S)
        seconds[state] = time.monotonic() - since
        self._end(round_)
        if round_.adapter is None:
            raise StormError(f"the undisturbed round made no adapter: {round_.reason}")
        times = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items() if s > 0.1)
        self._voice.say(
            f"reference: round {number} {round_.state}, dataset {short(round_.dataset)}, "
            f"adapter {short(round_.adapter)} ({times})"
        )
        return Reference(round_, seconds)

    def _strike(self, kill: Kill, reference: Reference) -> None:
        for _ in range(_TRIES):
            round_ = self._rounds.get(self._start_round())
            pid = self._kill_in_state(kill, round_.round, reference)
            struck = self._rounds.get(round_.round).state
            if pid is not None:
                self._victims.wait_until_whole(kill.process, pid)
            round_ = self._wait(round_.round, over=kill.state == "releasing")
            if pid is not None:
                checked = self._compare(round_, reference)
                self._end(round_)
                self._voice.killed(kill, pid, str(struck), checked)
                return
            # It had ended before the moment came: an earlier one, in a new round.
            self._end(round_)
            kill = replace(kill, share=kill.share / 2)
        raise StormError(f"{kill.process} was gone each time before it could be killed")

    def _kill_in_state(self, kill: Kill, number: int, reference: Reference) -> int | None:
        """The victim's pid; None where the moment was missed."""
        if kill.state == "releasing":
            self._wait(number)
            # The last signature starts the release, which is over long before the command is.
            threading.Thread(target=self._approve, args=(number,), daemon=True).start()
        before = _until(kill.state)
        while (state := self._rounds.get(number).state) in before:
            time.sleep(_FINE_TICK_S)
        if state != kill.state:
            return None
        if kill.process in STEPS:
            deadline = time.monotonic() + _MOMENT_S
            while self._victims.pid(kill.process) is None and time.monotonic() < deadline:
                time.sleep(_TICK_S)
        time.sleep(kill.share * {**_SECONDS, **reference.seconds}[kill.state])
        pid = self._victims.pid(kill.process)
        if pid is None or self._rounds.get(number).state != kill.state:
            return None
        return self._victims.kill(kill.process, pid)

    def _compare(self, round_: Round, reference: Reference) -> str:
        expected, made = reference.round, round_
        if (made.dataset, made.adapter) == (expected.dataset, expected.adapter):
            once = ", released once" if self._released_once(made) else ""
            return f"round {made.round} {made.state}, same dataset, same adapter{once}"
        self.different += 1
        return (
            f"round {made.round} {made.state} ({made.reason}): DIFFERENT, "
            f"dataset {made.dataset and short(made.dataset)}, "
            f"adapter {made.adapter and short(made.adapter)}"
        )

    def _released_once(self, made: Round) -> bool:
        """Whether the round was released, and the alias moved for it exactly once.

        Raises:
            StormError: it is said to be released, and the alias did not move, or moved twice.
        """
        if made.state is not State.RELEASED:
            return False
        with self._database.read() as connection:
            entries = [
                e.detail
                for e in audit.entries(connection, after=0, limit=100_000)
                if e.act == "alias.release" and e.at >= made.created_at
            ]
        if len(entries) != 1:
            raise StormError(f"round {made.round} moved the alias {len(entries)} times: {entries}")
        return True

    def _start_round(self) -> int:
        # Answers that were kept from the last round would leave evaluation nothing to do.
        shutil.rmtree(self._home.answers, ignore_errors=True)
        asked = ("round", "run", "--trajectories", "all", "--idle-s", "0")
        made = self._house.ask(*asked, person=OPERATOR)
        return int(made["round"])

    def _wait(self, number: int, *, over: bool = False) -> Round:
        """The round, once it waits for people (unless it must be `over`), or is over."""
        deadline = time.monotonic() + _ROUND_TIMEOUT_S
        while True:
            round_ = self._rounds.get(number)
            if round_.state.terminal or (_stands(round_) and not over):
                return round_
            if time.monotonic() > deadline:
                raise StormError(f"round {number} stays {round_.state}")
            time.sleep(_TICK_S)

    def _approve(self, number: int) -> None:
        for name in APPROVERS:
            self._patiently(
                "approve",
                str(number),
                person=name,
                done=lambda name=name: name in self._signers(number),
            )

    def _signers(self, number: int) -> set[str]:
        return {approval.approver for approval in approvals_of(self._database, number)}

    def _end(self, round_: Round) -> None:
        """Leave nothing waiting, and the base in charge: each round starts from the same."""
        number = round_.round
        if round_.state is State.AWAITING_APPROVAL:
            self._patiently(
                "reject",
                str(number),
                "--comment",
                "storm",
                person=APPROVERS[0],
                done=lambda: bool(self._signers(number)),
            )
            self._wait(number, over=True)
        if round_.state is State.RELEASED:
            reason = ("--reason", "the next round starts anew")
            self._patiently("kill", *reason, person=OPERATOR, done=lambda: False)

    def _patiently(self, *words: str, person: str, done: Callable[[], bool]) -> None:
        """Run a command until it succeeds, or was heard although its answer got lost."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._house.ask(*words, person=person)
            except CommandError:
                if done():
                    return
                if time.monotonic() > deadline:
                    raise
                time.sleep(_MOMENT_S)
            else:
                return


def _stands(round_: Round) -> bool:
    return round_.state.terminal or round_.state is State.AWAITING_APPROVAL


def _until(state: str) -> set[State]:
    """The states that a round passes through before `state`."""
    order = list(State)
    return set(order[: order.index(State(state))])
