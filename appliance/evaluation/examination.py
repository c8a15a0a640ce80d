"""One evaluation run: candidate against champion on every suite, then on the canaries.

Order: items that the dataset holds are left out and counted; target and protected suites are
compared; canaries are made from the dataset's rare spans and from items that both sides pass.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from appliance.core.digests import Digest
from appliance.core.errors import RecordError, UsageError
from appliance.core.objects import ObjectStore
from appliance.core.records import Dataset, Item, Scorecard, SuiteResult, decode, encode
from appliance.engine.bases import Base
from appliance.evaluation.answers import Answer, Examiner, answer_lines
from appliance.evaluation.canaries import canary_suites
from appliance.evaluation.comparison import compare
from appliance.evaluation.prompts import Prompt, dataset_prompts, item_texts, overlapping
from appliance.evaluation.suites import Suite, make_suite

Report = Callable[[str], None]

_TRIED_PER_SPAN = 3
_BORNE_SHARE = 0.25


class Examination:
    """Candidate and champion, the dataset that made the candidate, and what came out so far."""

    def __init__(
        self,
        examiner: Examiner,
        store: ObjectStore,
        *,
        candidate: Digest,
        champion: Digest | None,
        dataset: Digest,
        seed: int,
        report: Report,
    ) -> None:
        self._candidate, self._champion, self._seed = candidate, champion, seed
        self._report = report
        self._examiner, self._store = examiner, store
        self._dataset = decode(self._store.get(dataset), Dataset)
        if self._dataset.base != self._examiner.base.digest:
            raise UsageError(
                f"the dataset was made for base {self._dataset.base}, the engine serves "
                f"{self._examiner.base.digest}",
                next_step="start the engine on the dataset's base",
            )
        self._results: list[SuiteResult] = []
        self._outputs: list[bytes] = []
        self._passed: dict[str, set[str]] = {}
        """Suite → items that both sides pass."""

    def run(self, suites: Sequence[Suite], *, num_spans: int, num_items: int) -> Digest:
        """Compare on every suite that is not held out; return the scorecard's digest.

        Raises:
            UnavailableError: the engine does not answer.
            AdapterError: the engine does not take an adapter.
        """
        seen = dataset_prompts(self._dataset, self._examiner.template, self._store)
        clean, overlap = self._leave_out(suites, seen)
        judged = [suite for suite in clean if suite.kind != "held_out"]
        for suite in judged:
            self._compare(suite)
        for canary in self._canaries(judged, seen, num_spans, num_items):
            self._compare(canary)
        scorecard = Scorecard(
            candidate=self._candidate,
            champion=self._champion,
            base=self._examiner.base.digest,
            suites=tuple(self._results),
            seed=self._seed,
            outputs=self._store.put(b"\n".join(self._outputs)),
            overlap=overlap,
        )
        return self._store.put(encode(scorecard))

    def _leave_out(
        self, suites: Sequence[Suite], seen: Sequence[Prompt]
    ) -> tuple[list[Suite], dict[str, int]]:
        """The suites without what the dataset holds, and how many items that was in each."""
        clean, overlap = [], {}
        for suite in suites:
            found = overlapping(suite, self._dataset, seen, self._examiner.template, self._store)
            overlap[suite.suite] = len(found)
            rest = [item for item in suite.items if item.item_id not in found]
            # A suite that was trained on as a whole vanishes; the gate that needs it is not met.
            if rest:
                clean.append(make_suite(suite.suite, suite.kind, rest))
        return clean, overlap

    def _compare(self, suite: Suite) -> None:
        champion = self._examiner.answers(self._champion, suite)
        candidate = self._examiner.answers(self._candidate, suite)
        result = compare(suite, champion, candidate, seed=self._seed)
        self._report(
            f"{suite.suite}: {result.candidate_passed} of {result.num_items} against "
            f"{result.champion_passed} ({result.delta:+.3f})"
        )
        self._results.append(result)
        # Canaries and held-out successes stand in no suite file: without this nobody could read
        # what was asked.
        self._store.put(suite.sealed)
        for side, answers in (("champion", champion), ("candidate", candidate)):
            head = msgspec.json.encode({"suite": suite.suite, "side": side})
            self._outputs += [head, answer_lines(answers)]
        self._passed[suite.suite] = _both_pass(champion, candidate)

    def _canaries(
        self, suites: Sequence[Suite], seen: Sequence[Prompt], num_spans: int, num_items: int
    ) -> list[Suite]:
        # Living suites are small, and hold what somebody found odd: no ground to hide a span in.
        other = ("canary", "living")
        asked = [s for s in suites if not s.by_likelihood and s.kind not in other]
        asked.sort(key=lambda suite: (suite.kind != "protected", suite.suite))
        kept = [
            text
            for suite in asked
            if suite.kind == "protected"
            for item in suite.items
            for text in item_texts(item.messages)
        ]
        carriers = [_carriers(suite, self._passed[suite.suite]) for suite in asked]
        made = canary_suites(
            seen,
            [*kept, *replay_texts(self._examiner.base)],
            [pile for pile in carriers if pile],
            num_spans=_TRIED_PER_SPAN * num_spans,
            num_items=num_items,
            seed=self._seed,
        )
        # What breaks the champion too cannot show what it does to the candidate.
        borne = islice((canary for canary in made if self._is_borne(canary)), num_spans)
        return list(borne) or made[:num_spans]

    def _is_borne(self, canary: Suite) -> bool:
        answers = self._examiner.answers(self._champion, canary)
        passed = sum(answer.outcome == "ok" for answer in answers)
        return passed >= _BORNE_SHARE * len(answers)


def replay_texts(base: Base) -> list[str]:
    """What the base's replayed conversations say, the assistant left out."""
    if base.replay is None:
        return []
    texts: list[str] = []
    for number, line in enumerate(base.replay.read_bytes().splitlines(), start=1):
        try:
            texts += item_texts(msgspec.json.decode(line)["messages"])
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise RecordError(f"{base.replay}, line {number}: {error}") from error
    return texts


def _both_pass(champion: Sequence[Answer], candidate: Sequence[Answer]) -> set[str]:
    return {
        before.item_id
        for before, after in zip(champion, candidate, strict=True)
        if before.outcome == after.outcome == "ok"
    }


def _carriers(suite: Suite, passed: set[str]) -> list[Item]:
    """Items that a span can be put into: what both sides pass, else whatever the suite has."""
    texts = [item for item in suite.items if isinstance(item.messages[-1].get("content"), str)]
    return [item for item in texts if item.item_id in passed] or texts
