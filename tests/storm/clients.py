"""Agents with the real `openai` client, at work on an input that was recorded beforehand.

A request that breaks is sent anew, as a new request; a feedback that breaks is sent again, every
other one under the same id. Answers are compared with the right one, never executed.
"""

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import openai

from tests.storm.ledger import Ledger
from tests.storm.victims import StormError

_PAUSE_S = 0.1
_PATIENCE_S = 120.0
_TIMEOUT_S = 30.0


class Clients:
    """Threads that share a client, the input and the ledger."""

    def __init__(
        self, recorded: Path, *, base_url: str, api_key: str, num: int, seed: int, ledger: Ledger
    ) -> None:
        self._tasks = [json.loads(line) for line in recorded.read_text().splitlines()]
        self._numbers = iter(range(len(self._tasks)))
        self._dealt = 0
        self._dealing = threading.Condition()
        self._seed = seed
        self._ledger = ledger
        self._errors: list[BaseException] = []
        # No retries: a request that failed is a failed one.
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key, max_retries=0, timeout=_TIMEOUT_S
        )
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num)]

    @property
    def num_pieces(self) -> int:
        """Pieces of work in the input."""
        return len(self._tasks)

    def deal(self, num_pieces: int) -> None:
        """Hand out the input up to so many pieces; agents wait for the rest."""
        with self._dealing:
            self._dealt = num_pieces
            self._dealing.notify_all()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Hand out the rest, and wait for the end of the input.

        Raises:
            StormError: an agent gave up.
        """
        self.deal(self.num_pieces)
        for thread in self._threads:
            thread.join()
        self.raise_errors()

    def raise_errors(self) -> None:
        """Raise StormError where an agent gave up."""
        if self._errors:
            raise StormError(f"an agent gave up: {self._errors[0]!r}") from self._errors[0]

    def _run(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._piece(number, self._tasks[number])
                self._ledger.done()
        except Exception as error:
            self._errors.append(error)

    def _next(self) -> int | None:
        """The next piece, once it is dealt; None at the input's end."""
        with self._dealing:
            number = next(self._numbers, None)
            if number is not None:
                self._dealing.wait_for(lambda: self._dealt > number)
            return number

    def _piece(self, number: int, task: dict[str, Any]) -> None:
        draw = random.Random(f"{self._seed}/{number}")
        session = f"storm-{self._seed}-{number}"
        messages = list(task["messages"])
        outcomes = []
        for _ in range(draw.choice((1, 2, 2, 3))):
            turn_id, text = self._ask(messages, session, task["max_tokens"], draw)
            ok = text.strip() == task["gold"].strip()
            outcomes.append((turn_id, ok))
            if ok:
                break
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": "run: failed"},
            ]
        tags = {"task": task["task"], "family": task["family"]}
        told = [({"session": session}, outcomes[-1][1])]
        told += [({"turn_id": turn_id}, ok) for turn_id, ok in outcomes]
        for target, ok in told:
            outcome = "ok" if ok else "failed"
            self._tell(
                {"target": target, "kind": "outcome", "outcome": outcome, "tags": tags}, draw
            )
        if not outcomes[0][1]:
            correction = {"kind": "correction", "source": "human", "correction": task["gold"]}
            self._tell({"target": {"turn_id": outcomes[0][0]}, **correction, "tags": tags}, draw)

    def _ask(
        self, messages: list[dict[str, Any]], session: str, max_tokens: int, draw: random.Random
    ) -> tuple[str, str]:
        streamed = draw.random() < 0.5
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._ledger.sending():
                    turn_id, text = self._request(messages, session, max_tokens, draw, streamed)
            except Exception as error:
                self._ledger.failed(error)
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                self._ledger.answered(turn_id, text)
                return turn_id, text

    def _request(
        self,
        messages: list[dict[str, Any]],
        session: str,
        max_tokens: int,
        draw: random.Random,
        streamed: bool,
    ) -> tuple[str, str]:
        answer: Any = self._client.chat.completions.create(
            model="company-model",
            messages=messages,  # type: ignore[arg-type]
            max_tokens=max_tokens,
            temperature=1.0,
            seed=draw.randrange(1 << 31),
            stream=streamed,
            extra_headers={"x-espalier-session": session},
        )
        if not streamed:
            return answer.id, answer.choices[0].message.content or ""
        turn_id, text, finished = "", "", False
        for chunk in answer:
            turn_id = chunk.id
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finished = finished or choice.finish_reason is not None
        if not finished:
            raise openai.OpenAIError("the stream ended before the answer did")
        return turn_id, text

    def _tell(self, body: dict[str, Any], draw: random.Random) -> None:
        if draw.random() < 0.5:
            body = {**body, "feedback_id": f"storm-{draw.getrandbits(64):016x}"}
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._ledger.sending():
                    answer: Any = self._client.post("/feedback", body=body, cast_to=object)
            except Exception as error:
                self._ledger.failed(error)
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                self._ledger.told(answer["feedback_id"])
                return
