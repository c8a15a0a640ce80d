"""One side's answers to one suite: asked of the engine, judged outside, kept.

What an adapter answered is kept by (adapter, base, items), so a champion that stood as candidate
last time is not asked again, and a killed run goes on.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Literal

import msgspec

from appliance.agent.checks import Verdict, judge, parse_check
from appliance.core.digests import Digest, digest_json
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Item, Record
from appliance.engine.bases import Base, Registry
from appliance.engine.client import Engine
from appliance.engine.template import Template
from appliance.engine.wire import Generate
from appliance.evaluation.likelihood import score_items
from appliance.evaluation.suites import Suite
from appliance.sandbox.sandbox import Sandbox, open_sandbox

# Change it when answers to the same items may come out otherwise, so that none are mixed.
_METHOD = "greedy/1"
_CONCURRENCY = 64


class Answer(Record, frozen=True, kw_only=True):
    """What one side made of one item."""

    item_id: str
    text: str
    outcome: Literal["ok", "failed", "void"]
    """A scored answer that could be scored is ``ok``."""
    detail: str = ""
    logprob: float | None = None
    """Mean logprob per answer token, where the item is judged by likelihood."""


class Examiner:
    """Puts suites to the adapters of one engine, in its batch class, greedily.

    Use as ``with``: the sandbox that runs the checks is opened when it is first needed.
    """

    def __init__(self, home: Home, engine: Engine) -> None:
        self._home = home
        self._engine = engine
        self._store = ObjectStore(home.objects)
        self._opened = ExitStack()
        self.base: Base = Registry(home).get(engine.health().base)
        self.template = Template.load(self.base.path)

    def __enter__(self) -> "Examiner":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def answers(self, adapter: Digest | None, suite: Suite) -> list[Answer]:
        """The adapter's (None: the base's) answers, in the order of the items.

        Raises:
            AdapterError: the engine does not take the adapter.
            UnavailableError: the engine does not answer.
        """
        key = digest_json(
            {
                "method": _METHOD,
                "adapter": adapter,
                "base": self.base.digest,
                "items": suite.items_digest,
            }
        )
        return self._kept(key) or self._keep(key, self._ask(adapter, suite))

    def _ask(self, adapter: Digest | None, suite: Suite) -> list[Answer]:
        holder = f"evaluation:{suite.suite}"
        if adapter is not None:
            self._engine.prepare(adapter, holder)
        try:
            if suite.by_likelihood:
                return self._score(adapter, suite.items)
            return self._generate(adapter, suite.items)
        finally:
            if adapter is not None:
                self._engine.release(adapter, holder)

    def _generate(self, adapter: Digest | None, items: Sequence[Item]) -> list[Answer]:
        prompts = [self.template.encode(item.messages) for item in items]
        room = self.base.context_length
        fits = [
            len(ids) + item.max_tokens <= room for ids, item in zip(prompts, items, strict=True)
        ]
        requests = [
            Generate(
                prompt_ids=ids,
                adapter=adapter,
                max_tokens=item.max_tokens,
                temperature=0.0,
                seed=0,
                stop_ids=self.template.stop_ids,
                logprobs=False,
                priority="batch",
            )
            for ids, item, fit in zip(prompts, items, fits, strict=True)
            if fit
        ]
        done = iter(self._engine.generate_many(requests, concurrency=_CONCURRENCY))
        texts = [self._text(next(done).choices[0].ids) if fit else None for fit in fits]
        return self._judge(items, texts, f"prompt and answer do not fit into {room} tokens")

    def _judge(
        self, items: Sequence[Item], texts: Sequence[str | None], why_void: str
    ) -> list[Answer]:
        asked = [
            (parse_check(item.check), text)
            for item, text in zip(items, texts, strict=True)
            if text is not None
        ]
        verdicts = iter(judge(asked, sandbox=self._sandbox))
        void = Verdict(outcome="void", detail=why_void)
        judged = [(text or "", void if text is None else next(verdicts)) for text in texts]
        return [
            Answer(item_id=item.item_id, text=text, outcome=one.outcome, detail=one.detail)
            for item, (text, one) in zip(items, judged, strict=True)
        ]

    @cached_property
    def _sandbox(self) -> Sandbox:
        return self._opened.enter_context(open_sandbox())

    def _text(self, ids: Sequence[int]) -> str:
        """The answer's content; all of its text where it calls tools."""
        text = self.template.decode(ids)
        content = self.template.parse_answer(text).get("content")
        return content if isinstance(content, str) else text

    def _score(self, adapter: Digest | None, items: Sequence[Item]) -> list[Answer]:
        scored = score_items(
            self._engine, adapter, items, self.template, self._store, self.base.context_length
        )
        return [
            Answer(
                item_id=item.item_id,
                text="",
                outcome="void" if logprob is None else "ok",
                detail="cannot be scored by this base" if logprob is None else "",
                logprob=logprob,
            )
            for item, logprob in zip(items, scored, strict=True)
        ]

    def _kept(self, key: Digest) -> list[Answer] | None:
        path = self._home.answers / key.removeprefix("sha256:")
        try:
            data = self._store.get(Digest(path.read_text()))
        except (FileNotFoundError, NotFoundError, IntegrityError):
            return None  # what is damaged or gone is asked again
        return [msgspec.json.decode(line, type=Answer) for line in data.splitlines()]

    def _keep(self, key: Digest, answers: list[Answer]) -> list[Answer]:
        digest = self._store.put(answer_lines(answers))
        self._home.answers.mkdir(exist_ok=True)
        publish(self._home.answers / key.removeprefix("sha256:"), digest.encode())
        return answers


def answer_lines(answers: Sequence[Answer]) -> bytes:
    """One JSON line each."""
    return b"\n".join(msgspec.json.encode(answer) for answer in answers)
