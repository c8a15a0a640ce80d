"""The loop: ask the model, run what it answers, tell it what happened, until it is done.

The same loop works for users and for practice. What the model and the environment are is not
known here; both are ports.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from appliance.agent.checks import Verdict
from appliance.core.digests import Digest, digest_files
from appliance.core.errors import UnavailableError
from appliance.core.records import Json, Outcome

_SOURCES = ("checks.py", "environment.py", "loop.py", "model.py")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the model. `message` is it as it goes into the next prompt."""

    turn_id: str
    message: Json


class Model(Protocol):
    """Whoever answers."""

    async def ask(self, messages: Sequence[Json], tools: Sequence[Json]) -> Answer:
        """The next answer.

        Raises:
            UnavailableError: there is none.
        """
        ...


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer asks for: run this text, or (None) stop."""

    text: str | None


class Environment(Protocol):
    """Where an answer is tried."""

    @property
    def tools(self) -> Sequence[Json]:
        """Tools on offer, as in the chat API; may be none."""
        ...

    def read(self, message: Json) -> Proposal:
        """What an answer proposes."""
        ...

    async def run(self, text: str) -> Verdict:
        """Try it."""
        ...

    def reply(self, message: Json, verdict: Verdict) -> Sequence[Json]:
        """The messages that tell the model how it went."""
        ...


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One answer and what came of it."""

    turn_id: str
    message: Json
    verdict: Verdict


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work, finished one way or another."""

    attempts: tuple[Attempt, ...]
    ended: Literal["solved", "gave_up", "out_of_answers", "cut_off"]

    @property
    def outcome(self) -> Outcome:
        """Unknown unless it was seen: a run that is void, or no answer, shows nothing."""
        if self.ended == "solved":
            return "ok"
        if self.ended == "cut_off" or not self.attempts:
            return "unknown"
        return outcome_of(self.attempts[-1].verdict)


async def work(
    model: Model, environment: Environment, messages: Sequence[Json], *, max_answers: int
) -> Work:
    """Work on one task until it is solved, given up, or `max_answers` were not enough."""
    history = list(messages)
    attempts: list[Attempt] = []

    def end(ended: Literal["solved", "gave_up", "out_of_answers", "cut_off"]) -> Work:
        return Work(attempts=tuple(attempts), ended=ended)

    for _ in range(max_answers):
        try:
            answer = await model.ask(history, environment.tools)
        except UnavailableError:
            return end("cut_off")
        proposal = environment.read(answer.message)
        gave_up = proposal.text is None
        verdict = _GAVE_UP if proposal.text is None else await environment.run(proposal.text)
        attempts.append(Attempt(turn_id=answer.turn_id, message=answer.message, verdict=verdict))
        if gave_up:
            return end("gave_up")
        if verdict.outcome == "ok":
            return end("solved")
        history += [answer.message, *environment.reply(answer.message, verdict)]
    return end("out_of_answers")


def outcome_of(verdict: Verdict) -> Outcome:
    """Void is unknown, and unknown is never rounded up."""
    return "unknown" if verdict.outcome == "void" else verdict.outcome


def loop_digest() -> Digest:
    """Digest of the sources that make up the loop: what practises is what ships."""
    return digest_files(Path(__file__).parent, _SOURCES)


_GAVE_UP = Verdict(outcome="failed", detail="gave up")
