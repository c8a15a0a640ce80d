"""An engine that says what a test scripts, and the small items and datasets to go with it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from appliance.core.digests import Digest, digest_bytes
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Example, Item, encode
from appliance.engine.bases import Base
from appliance.engine.template import Template
from appliance.engine.wire import Generate, Lease, Line, Released, Score, Scores

CANDIDATE = digest_bytes(b"candidate")
CHAMPION = digest_bytes(b"champion")
Side = Digest | None


@dataclass
class ScriptedEngine:
    """The engine's wire, with answers from two functions that a test may replace."""

    base: Digest
    template: Template
    answer: Callable[[Side, str], str] = lambda side, prompt: "?"
    logprob: Callable[[Side], float] = lambda side: -1.0
    num_generated: int = 0
    num_scored: int = 0
    priorities: set[str] = field(default_factory=set)
    held: dict[str, Digest] = field(default_factory=dict)

    def generate(self, request: Generate) -> list[Line]:
        assert request.temperature == 0
        assert request.adapter is None or request.adapter in self.held.values()
        self.num_generated += 1
        self.priorities.add(request.priority)
        said = re.findall(r"user\n(.*?)\s*assistant\n$", self._text(request), re.DOTALL)
        ids = self.template.encode_text(self.answer(request.adapter, said[-1]))
        end = self.template.stop_ids[-1]
        return [
            Line(index=0, ids=ids[: request.max_tokens], logprobs=[]),
            Line(index=0, ids=[end], finish_reason="stop"),
            Line(done=True, prompt_tokens=len(request.prompt_ids)),
        ]

    def score(self, request: Score) -> Scores:
        self.num_scored += len(request.ids)
        each = self.logprob(request.adapter)
        return Scores(logprobs=[[each] * (len(row) - 1) for row in request.ids])

    def prepare(self, lease: Lease) -> dict[str, bool]:
        assert lease.adapter is not None
        self.held[lease.holder] = lease.adapter
        return {}

    def release(self, lease: Lease) -> Released:
        del self.held[lease.holder]
        return Released()

    def _text(self, request: Generate) -> str:
        return self.template.decode(request.prompt_ids)


def item(number: int | str, prompt: str, expected: str, family: str = "all") -> Item:
    return Item(
        item_id=f"item-{number}",
        family=family,
        messages=({"role": "user", "content": prompt},),
        check={"kind": "exact", "expected": expected},
        max_tokens=32,
    )


def seal(
    home: Home,
    base: Base,
    template: Template,
    rows: Sequence[tuple[str, str]],
    *,
    kind: str = "success",
) -> Digest:
    """A dataset of (prompt, answer) rows, encoded as the gateway would have fed them."""
    store = ObjectStore(home.objects)
    encoded = [
        template.spans(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        )
        for prompt, answer in rows
    ]
    # One batch: each object alone would be an fsync of its own.
    ids = store.put_many([np.asarray(spans.ids, "<i4").tobytes() for spans in encoded])
    masks = store.put_many([np.asarray(spans.mask, "u1").tobytes() for spans in encoded])
    examples = [
        Example(
            trajectory_id=f"t{number}",
            version=1,
            node=0,
            kind=kind,  # type: ignore[arg-type]
            tier="gold",
            family="all",
            task=f"t{number}",
            reward=1.0,
            ids=ArrayRef(digest_of_bytes=ids[number], dtype="int32", count=len(spans.ids)),
            mask=ArrayRef(digest_of_bytes=masks[number], dtype="uint8", count=len(spans.ids)),
            logprobs=None,
            adapter=None,
        )
        for number, spans in enumerate(encoded)
    ]
    dataset = Dataset(
        base=base.digest,
        template=template.digest,
        recipe=digest_bytes(b"recipe"),
        label="internal",
        trajectories=tuple((example.trajectory_id, 1) for example in examples),
        examples=tuple(examples),
        exclusions=(),
        counts={},
    )
    return store.put(encode(dataset))
