"""Sequences of review actions, drawn by Hypothesis, against the law written a second time.

Whatever people try, and by whatever credential: nothing is released but what two different people,
signed in with their passphrase and no authors of it, approved: exactly that adapter, with exactly
that scorecard, in time, with nobody against it.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from appliance.control.acting import decisions as deciding
from appliance.control.acting import law as making_law
from appliance.control.acting import people as managing
from appliance.control.acting import proposals as proposing
from appliance.control.acting import rounds as running
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import await_approval, release
from appliance.core.decisions import Candidate
from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import EspalierError
from policies.lifecycle import State
from tests.law.world import FIRST_LAW, GATES, STAFF, SUITE, World

HOW = st.sampled_from(["passphrase"] * 6 + ["wrong", "session", "token"])
WHO = st.sampled_from(list(STAFF))
OTHERS = st.sampled_from(list(STAFF)[1:])  # the admin stays
RARELY = st.sampled_from([False, False, False, True])
CHUNK = 1000
VALID_S = 168 * 3600.0

counts: Counter[str] = Counter()
_worlds: list[World] = []


@dataclass(frozen=True)
class Said:
    """A decision that was taken, as the model of the law remembers it."""

    who: str
    adapter: Digest
    candidate: Candidate
    decision: str
    at: float


class Review(RuleBasedStateMachine):
    """One appliance, its people, and everything that they may try."""

    @initialize()
    def begin(self) -> None:
        """People of every role, and a law."""
        counts["sequences"] += 1
        if not _worlds:
            _worlds.append(World.make())
        self.world = _worlds[0]
        self.world.begin()
        self.said: list[Said] = []
        self.last_word = {name: "olga" for _, name, _ in FIRST_LAW}
        self.authors: set[str] = set()
        self.gone: set[str] = set()
        self.made = 0
        self.checked = 0
        self.round: Any = None

    @precondition(lambda self: self.round is None or self.round.state.terminal)
    @rule(who=WHO, how=HOW)
    def start(self, who: str, how: str) -> None:
        """Somebody starts a round."""
        if self._tried(who, how, lambda p: running.start(self.world.ground, p, running.Start())):
            self.authors = {who, *self.last_word.values()}

    @precondition(lambda self: self.round is not None and not self.round.state.terminal)
    @rule(steps=st.integers(2, 5))
    def work(self, steps: int) -> None:
        """The worker takes the round some steps on; what it makes is new each time."""
        rounds = Rounds(self.world.ground.database)
        for _ in range(steps):
            one = rounds.under_way()
            if one is None or one.state is State.RELEASING:
                return
            if one.state is State.AWAITING_APPROVAL:
                return
            self.made += 1
            fresh = digest_bytes(str(self.made).encode())
            to, made = {
                State.CREATED: (State.COLLECTING, {}),
                State.COLLECTING: (State.CURATING, {}),
                State.CURATING: (State.TRAINING, {"dataset": fresh}),
                State.TRAINING: (State.EVALUATING, {"adapter": fresh}),
                State.EVALUATING: (State.AWAITING_APPROVAL, {"scorecard": self._figures(one)}),
            }[one.state]
            rounds.advance(one, to, actor="espalier", at=self.world.now, **made)

    @precondition(lambda self: self.round is not None)
    @rule(
        who=WHO,
        how=HOW,
        decision=st.sampled_from(["approve"] * 5 + ["request_changes", "reject"]),
        looked_at=st.sampled_from(["now"] * 5 + ["nothing", "another adapter", "other figures"]),
    )
    def decide(self, who: str, how: str, decision: str, looked_at: str) -> None:
        """Somebody signs, or tries to."""
        one = self.round
        other = digest_bytes(b"another")
        ask = deciding.Decision(
            decision=decision,  # type: ignore[arg-type] # one of them
            comment="because",
            adapter={"now": one.adapter, "another adapter": other}.get(looked_at),
            scorecard={"now": one.scorecard, "other figures": other}.get(looked_at),
        )
        done = self._tried(
            who, how, lambda p: deciding.decide(self.world.ground, p, one.round, ask)
        )
        if done:
            assert how == "passphrase", f"signed by {how}"
            assert looked_at in ("now", "nothing"), f"signed {looked_at}"
            self.said.append(Said(who, one.adapter, one.candidate, decision, self.world.now))

    @rule(starter=WHO, signers=st.lists(WHO, min_size=1, max_size=4), how=HOW)
    def ordinary_day(self, starter: str, signers: list[str], how: str) -> None:
        """A round from its start to what people let become of it."""
        if self.round is None or self.round.state.terminal:
            self.start(starter, "passphrase")
        self.work(5)
        for who in signers:
            self._look()
            if self._waits():
                self.decide(who, how if who == signers[-1] else "passphrase", "approve", "now")
        self._look()
        if self._waits():
            self.carry_out()

    @precondition(lambda self: self.round is not None)
    @rule(who=WHO, how=HOW)
    def revise(self, who: str, how: str) -> None:
        """Somebody has the candidate made again."""
        number = self.round.round
        ask = running.Why(reason="changed")
        if self._tried(who, how, lambda p: running.revise(self.world.ground, p, number, ask)):
            self.authors |= {who, *self.last_word.values()}

    @precondition(lambda self: self.round is not None)
    @rule(who=WHO, how=HOW, mood=RARELY)
    def cancel(self, who: str, how: str, mood: bool) -> None:
        """Now and then somebody ends the round."""
        if not mood:
            return
        number = self.round.round
        ask = running.Why(reason="enough")
        self._tried(who, how, lambda p: running.cancel(self.world.ground, p, number, ask))

    @rule(who=WHO, how=HOW, kind=st.sampled_from(["gates", "target", "protected"]))
    def change_law(self, who: str, how: str, kind: str) -> None:
        """Somebody changes what rounds are judged by; a protected suite is only proposed."""
        self.made += 1
        article, name, text = {
            "gates": ("gates", "gates", GATES.format(name=f"g{self.made}")),
            "target": ("suite", "t", SUITE.format(name="t", kind="target", item=self.made)),
            "protected": ("suite", "p", SUITE.format(name="p", kind="protected", item=self.made)),
        }[kind]
        ask = making_law.Text(text=text)
        act = making_law.set_article
        done = self._tried(who, how, lambda p: act(self.world.ground, p, article, name, ask))
        if done and kind != "protected":
            self.last_word[name] = who

    @rule(who=WHO, how=HOW)
    def accept(self, who: str, how: str) -> None:
        """Somebody accepts the oldest open change of the protected suite."""
        waiting = self._open_proposals()
        if not waiting:
            return
        number, proposer = waiting[0]
        if self._tried(who, how, lambda p: proposing.accept(self.world.ground, p, number)):
            assert who != proposer, "accepted one's own change"
            assert how == "passphrase", f"accepted by {how}"
            self.last_word["p"] = proposer

    @rule(who=OTHERS, back=st.booleans(), mood=RARELY)
    def end_access(self, who: str, back: bool, mood: bool) -> None:
        """Now and then the admin ends somebody's access, or gives it back."""
        if not mood:
            return
        ask = managing.Change(ended=not back)
        if self._tried(
            "ada", "passphrase", lambda p: managing.change(self.world.ground, p, who, ask)
        ):
            (self.gone.discard if back else self.gone.add)(who)

    @rule(who=OTHERS, role=st.sampled_from(list(STAFF.values())), mood=RARELY)
    def change_role(self, who: str, role: str, mood: bool) -> None:
        """Now and then the admin gives somebody another role."""
        if not mood:
            return
        ask = managing.Change(role=role)
        self._tried("ada", "passphrase", lambda p: managing.change(self.world.ground, p, who, ask))

    @rule(hours=st.sampled_from([0.1] * 6 + [1.0, 100.0]))
    def wait(self, hours: float) -> None:
        """Time passes."""
        self.world.now += hours * 3600

    @precondition(lambda self: self._waits())
    @rule()
    def carry_out(self) -> None:
        """The worker looks whether enough people have signed, and releases."""
        rounds = Rounds(self.world.ground.database)
        for state, step in ((State.AWAITING_APPROVAL, await_approval), (State.RELEASING, release)):
            one = rounds.under_way()
            if one is None or one.state is not state:
                return
            try:
                following = step(self.world.ground, one, lambda: None)
            except EspalierError as error:
                rounds.advance(
                    one, State.FAILED, actor="espalier", at=self.world.now, reason=error.message
                )
                return
            if following is not None:
                rounds.advance(one, following.state, actor="espalier", at=self.world.now)

    @invariant()
    def only_what_the_law_allows_is_served(self) -> None:
        """The law, a second time."""
        self._look()
        for moved in self.world.served[self.checked :]:
            counts["releases"] += 1
            of_adapter = [one for one in self.said if one.adapter == moved.adapter]
            last = {one.who: one for one in of_adapter if one.candidate == self.round.candidate}
            signed = {
                who
                for who, one in last.items()
                if one.decision == "approve" and moved.at - one.at <= VALID_S
            }
            assert len(signed - self.authors - self.gone) >= 2, (signed, self.authors, self.gone)
            assert all(one.decision != "reject" for one in of_adapter)
            assert all(one.decision != "request_changes" for one in last.values())
            assert moved.adapter == self.round.adapter
        self.checked = len(self.world.served)

    def _figures(self, one: Round) -> Digest:
        """Of the same adapter the same, as evaluation's kept answers have it: whatever the law."""
        return digest_bytes(f"figures of {one.adapter}".encode())

    def _look(self) -> None:
        newest = Rounds(self.world.ground.database).some(limit=1)
        self.round = newest[0] if newest else None

    def _waits(self) -> bool:
        return self.round is not None and self.round.state is State.AWAITING_APPROVAL

    def _open_proposals(self) -> list[tuple[int, str]]:
        with self.world.ground.database.read() as connection:
            rows = connection.exec_driver_sql(
                "SELECT number, proposer FROM proposals WHERE state = 'open' ORDER BY number"
            )
            return [(row[0], row[1]) for row in rows]

    def _tried(self, who: str, how: str, act: Any) -> bool:
        counts["acts"] += 1
        self.world.now += 0.001  # no two acts come at the same moment
        try:
            act(self.world.as_signed_in(who, how))
        except EspalierError:
            counts["refused"] += 1
            return False
        assert how != "wrong", f"{who} acted with a wrong passphrase"
        assert who not in self.gone, f"{who} acted after access had ended"
        return True


def leave() -> None:
    """The world's clock and serving are its own: what comes after has the usual ones."""
    while _worlds:
        _worlds.pop().leave()


def run_some(chosen: int) -> dict[str, int]:
    """A thousand sequences of this seed; what was counted."""
    counts.clear()
    run_state_machine_as_test(
        seed(chosen)(Review),
        settings=settings(
            max_examples=CHUNK,
            stateful_step_count=12,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    leave()
    return {name: counts[name] for name in ("sequences", "acts", "refused", "releases")}
