"""A fleet: many agents at once on one file of tasks, as a company's agents would work.

Each trajectory is one session: the loop on one task, its feedback posted when it is over. What
every draw needs comes from (seed, task, attempt, position), so a rerun asks for the same.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import IO

import msgspec
import openai

from appliance.agent.environment import TaskEnvironment
from appliance.agent.feedback import Report, count, flipped, report, shuffled
from appliance.agent.loop import Work, loop_digest, work
from appliance.agent.model import GatewayModel, Request
from appliance.agent.tasks import Task
from appliance.core.records import Outcome
from appliance.sandbox.sandbox import Sandbox


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet is to do."""

    model: str
    concurrency: int = 16
    attempts: int = 1
    """Trajectories per task; without end where `until_file` is given."""
    max_answers: int = 3
    temperature: float = 1.0
    stream: float = 0.0
    """Share of the requests that are streamed."""
    seed: int | None = None
    """None lets the engine choose."""
    correction_share: float = 0.0
    """Share of the failed trajectories that somebody corrects."""
    corrections: dict[str, str] = {}
    """Task id → what somebody says the answer should have been, whatever came of the task."""
    shuffle_feedback: int | None = None
    flip_feedback: bool = False
    until_file: Path | None = None
    """Start no new trajectory once this file is there."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the results: one trajectory, with its true outcome."""

    task: str
    family: str
    attempt: int
    session: str
    answers: tuple[str, ...]
    turn_ids: tuple[str, ...]
    outcome: Outcome
    ended: str
    adapter: str
    """What the last answer said."""
    requests: int
    failed_requests: int
    corrected: bool
    calls: tuple[Request, ...]


class Summary(msgspec.Struct, kw_only=True):
    """The last line: the fleet in numbers."""

    requests: int = 0
    failed_requests: int = 0
    streamed: int = 0
    trajectories: int = 0
    multi_turn: int = 0
    """Trajectories of two answers or more."""
    ok: int = 0
    failed: int = 0
    unknown: int = 0
    gave_up: int = 0
    corrections: int = 0
    feedback: int = 0
    failed_feedback: int = 0
    seconds: float = 0.0
    adapters: dict[str, int] = {}
    """Adapter → answers that said they came from it."""
    last_adapter: str = ""
    errors: dict[str, int] = {}
    """What went wrong, and how often; the ten most frequent."""
    loop: str = ""
    sandbox: str = ""


class Fleet:
    """Agents that share one client, one sandbox and one list of results."""

    def __init__(
        self,
        plan: Plan,
        tasks: Sequence[Task],
        *,
        client: openai.AsyncOpenAI,
        sandbox: Sandbox,
        out: IO[bytes],
    ) -> None:
        self._plan = plan
        self._tasks = tasks
        self._client = client
        self._sandbox = sandbox
        self._out = out
        self._results: list[Result] = []
        self._held: list[Report] = []
        self._posted: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    async def run(self) -> Summary:
        """Work through the plan; returns when every trajectory and its feedback is done."""
        started = time.monotonic()
        await self._together(starmap(self._trajectory, self._queue()))
        if self._plan.shuffle_feedback is not None:
            told = shuffled(self._held, self._plan.shuffle_feedback)
            await self._together(map(self._post, told))
        return self._summary(time.monotonic() - started)

    def _queue(self) -> Iterator[tuple[Task, int]]:
        plan, attempt = self._plan, 0
        order = list(self._tasks)
        random.Random(plan.seed or 0).shuffle(order)  # noqa: S311 - an order, not a secret
        while plan.until_file is not None or attempt < plan.attempts:
            for task in order:
                if plan.until_file is not None and plan.until_file.exists():
                    return
                yield task, attempt
            attempt += 1

    async def _together(self, pieces: Iterator[Coroutine[None, None, None]]) -> None:
        """Do all pieces, as many at once as there are agents."""

        async def agent() -> None:
            for piece in pieces:
                await piece

        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.concurrency):
                group.create_task(agent())

    async def _trajectory(self, task: Task, attempt: int) -> None:
        plan, session = self._plan, uuid.uuid4().hex
        model = GatewayModel(
            self._client,
            model=plan.model,
            session=session,
            max_tokens=task.max_tokens,
            temperature=plan.temperature,
            seed_of=lambda n: None if plan.seed is None else self._draw(task, attempt, n)(1 << 31),
            streams=lambda n: (
                self._draw(task, attempt, "stream", n)(1 << 31) < plan.stream * (1 << 31)
            ),
        )
        environment = TaskEnvironment(task, self._sandbox)
        done = await work(model, environment, task.messages, max_answers=plan.max_answers)
        told = report(
            done,
            session=session,
            tags={"task": task.task, "family": task.family},
            correction=self._correction(task, attempt),
        )
        if (given := plan.corrections.get(task.task)) is not None and done.attempts:
            told = msgspec.structs.replace(told, correction=given)
        if plan.flip_feedback:
            told = flipped(told)
        if plan.shuffle_feedback is not None:
            self._held.append(told)
        else:
            await self._post(told)
        self._write(task, attempt, told, done, model.requests)

    def _correction(self, task: Task, attempt: int) -> str | None:
        share = self._plan.correction_share * (1 << 31)
        drawn = self._draw(task, attempt, "correction")(1 << 31) < share
        return task.gold if drawn else None

    def _draw(self, task: Task, attempt: int, *position: object) -> Callable[[int], int]:
        key = f"{self._plan.seed}/{task.task}/{attempt}/{position}"
        return random.Random(key).randrange  # noqa: S311 - a draw that can be repeated

    async def _post(self, told: Report) -> None:
        for body in told.posts():
            try:
                await self._client.post("/feedback", body=body, cast_to=object)
            except openai.OpenAIError as error:
                self._posted["failed"] += 1
                self._errors[f"feedback: {type(error).__name__}: {error}"[:300]] += 1
            else:
                self._posted[body["kind"]] += 1

    def _write(
        self, task: Task, attempt: int, told: Report, done: Work, calls: list[Request]
    ) -> None:
        failed = [call.failed for call in calls if call.failed]
        self._errors.update(error[:300] for error in failed)
        answered = [call for call in calls if not call.failed]
        result = Result(
            task=task.task,
            family=task.family,
            attempt=attempt,
            session=told.session,
            answers=tuple(a.message.get("content") or "" for a in done.attempts),
            turn_ids=tuple(a.turn_id for a in done.attempts),
            outcome=done.outcome,
            ended=done.ended,
            adapter=answered[-1].adapter if answered else "",
            requests=len(calls),
            failed_requests=len(failed),
            corrected=told.correction is not None and self._plan.shuffle_feedback is None,
            calls=tuple(calls),
        )
        self._results.append(result)
        self._out.write(msgspec.json.encode(result) + b"\n")
        self._out.flush()

    def _summary(self, seconds: float) -> Summary:
        results = self._results
        calls = [call for result in results for call in result.calls]
        answered = [call for call in calls if not call.failed]
        last = max(answered, key=lambda call: call.ended_at, default=None)
        return Summary(
            requests=len(calls),
            failed_requests=len(calls) - len(answered),
            streamed=sum(call.streamed for call in calls),
            trajectories=len(results),
            multi_turn=sum(len(result.answers) > 1 for result in results),
            **count(result.outcome for result in results),
            gave_up=sum(result.ended == "gave_up" for result in results),
            corrections=self._posted["correction"],
            feedback=self._posted["outcome"] + self._posted["correction"],
            failed_feedback=self._posted["failed"],
            seconds=round(seconds, 3),
            adapters=dict(Counter(call.adapter for call in answered)),
            last_adapter=last.adapter if last else "",
            errors=dict(self._errors.most_common(10)),
            loop=loop_digest(),
            sandbox=self._sandbox.name,
        )
