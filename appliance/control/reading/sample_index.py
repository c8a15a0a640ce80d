"""An index of a scorecard's answers: which item, what changed, and where on disk it stands.

Texts stay on disk. The objects' digests are verified when the index is made; of each part a
checksum is kept, so that what is read later is what was verified.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from statistics import fmean
from typing import Literal

import msgspec

from appliance.core.digests import Digest
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.records import Scorecard, SuiteResult

Change = Literal["regressed", "gained", "void", "changed", "unchanged"]
CHANGES: tuple[Change, ...] = ("regressed", "gained", "void", "changed", "unchanged")
"""In the order in which they are shown: what got worse first."""

FACETS = ("suite", "family", "language", "change")

_KEPT = 2
_MANY_FILTERS = 16


class Span(msgspec.Struct, frozen=True, gc=False):
    """A part of an object."""

    offset: int
    size: int
    checksum: int
    """A keyed hash, good for this process."""

    def require(self, data: bytes) -> bytes:
        """The data, if it is what was verified.

        Raises:
            IntegrityError: it was changed on disk since.
        """
        if hash(data) != self.checksum:
            raise IntegrityError(
                "an answer was changed on disk since it was verified",
                next_step="restore the object store from a backup",
            )
        return data


class Side(Span, frozen=True, gc=False):
    """One side's answer to an item: its line in the outputs."""

    outcome: str
    logprob: float | None


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One item and both answers to it."""

    suite: str
    item_id: str
    family: str
    language: str
    change: Change
    by: float
    """How much likelier (in nats per token), or more right (1, 0 or -1), than before."""
    item: Span | None
    """Its item in the suite's object; None where the suite was not kept."""
    champion: Side
    candidate: Side


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which samples are asked for; an empty filter lets everything through."""

    suite: str = ""
    family: str = ""
    language: str = ""
    change: str = ""
    viewed: Literal["", "yes", "no"] = ""


class Facets(msgspec.Struct, frozen=True):
    """How many samples each value would leave, given the other filters (ticks aside)."""

    suite: dict[str, int]
    family: dict[str, int]
    language: dict[str, int]
    change: dict[str, int]


class Index:
    """The samples of one scorecard in the order in which they are shown."""

    def __init__(self, outputs: Digest, samples: Iterable[Sample], digests: dict[str, Digest]):
        self.outputs = outputs
        self.suites = digests
        """Suite → the object that holds its items."""
        self.samples = sorted(samples, key=_order)
        self._ranks = {(one.suite, one.item_id): at for at, one in enumerate(self.samples)}
        self._columns = [[getattr(one, facet) for one in self.samples] for facet in FACETS]
        self._found: OrderedDict[tuple[str, ...], tuple[list[int], Facets]] = OrderedDict()

    def rank(self, suite: str, item_id: str) -> int:
        """The sample's place in the whole order.

        Raises:
            NotFoundError: the scorecard has no such sample.
        """
        try:
            return self._ranks[suite, item_id]
        except KeyError:
            raise NotFoundError(
                f"no sample {item_id[:80]!r} in the suite {suite[:80]!r} of this scorecard",
                next_step="the candidate may have been made again; open the samples anew",
            ) from None

    def find(self, filters: Filters) -> tuple[list[int], Facets]:
        """The ranks of what the filters leave, in order, and what each other value would leave."""
        wanted = tuple(getattr(filters, facet) for facet in FACETS)
        if wanted not in self._found:
            self._found[wanted] = self._search(wanted)
            while len(self._found) > _MANY_FILTERS:
                self._found.popitem(last=False)
        return self._found[wanted]

    @cached_property
    def means(self) -> dict[str, tuple[float, float]]:
        """Scored suite → champion's and candidate's mean logprob per token, over judged pairs."""
        pairs: dict[str, list[tuple[float, float]]] = {}
        for one in self.samples:
            before, after = one.champion.logprob, one.candidate.logprob
            if before is not None and after is not None:
                pairs.setdefault(one.suite, []).append((before, after))
        return {
            suite: (fmean(b for b, _ in held), fmean(a for _, a in held))
            for suite, held in pairs.items()
        }

    def _search(self, wanted: tuple[str, ...]) -> tuple[list[int], Facets]:
        counts: list[Counter[str]] = []
        for at, column in enumerate(self._columns):
            others = self._matching([want if i != at else "" for i, want in enumerate(wanted)])
            counts.append(Counter(map(column.__getitem__, others)))
        facets = Facets(*(dict(sorted(counter.items())) for counter in counts))
        return list(self._matching(wanted)), facets

    def _matching(self, wanted: Sequence[str]) -> Iterable[int]:
        ranks: Iterable[int] = range(len(self.samples))
        for want, column in zip(wanted, self._columns, strict=True):
            if want:
                ranks = [rank for rank in ranks if column[rank] == want]
        return ranks


class Shelf:
    """The indexes of the scorecards that were looked at last. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, Digest], tuple[ObjectStore, Index]] = OrderedDict()

    def get(self, store: ObjectStore, digest: Digest, scorecard: Scorecard) -> Index:
        """The index of a scorecard, made where it is not kept.

        Raises:
            NotFoundError: its answers are not kept.
            IntegrityError: they, or a suite, are damaged on disk.
        """
        key = (id(store), digest)
        with self._lock:
            kept = self._kept.pop(key, None) or (store, build(store, scorecard))
            self._kept[key] = kept
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return kept[1]


def build(store: ObjectStore, scorecard: Scorecard) -> Index:
    """Read every answer once.

    Raises:
        NotFoundError: the scorecard names no answers, or they are gone.
        IntegrityError: they, or a suite, are damaged on disk.
    """
    if scorecard.outputs is None:
        raise NotFoundError("the scorecard kept no answers")
    data = store.get(scorecard.outputs)
    sides = _sides(data)
    samples: list[Sample] = []
    digests: dict[str, Digest] = {}
    for suite in scorecard.suites:
        if store.has(suite.suite_digest):
            digests[suite.suite] = suite.suite_digest
        champion = sides.get((suite.suite, "champion"), {})
        candidate = sides.get((suite.suite, "candidate"), {})
        items = _items(store, suite)
        samples += [
            _sample(
                data, suite.suite, item_id, items.get(item_id, _UNKNOWN), champion[item_id], after
            )
            for item_id, after in candidate.items()
            if item_id in champion
        ]
    return Index(scorecard.outputs, samples, digests)


class _Line(msgspec.Struct, gc=False):
    """A line of the outputs: which side follows, or one answer of it."""

    suite: str = ""
    side: str = ""
    item_id: str = ""
    outcome: str = ""
    logprob: float | None = None


class _Item(msgspec.Struct, gc=False):
    item_id: str = ""
    family: str = ""
    language: str = ""
    span: Span | None = None


class _Suite(msgspec.Struct):
    items: list[msgspec.Raw]


class _Said(msgspec.Struct, gc=False):
    text: msgspec.Raw


_UNKNOWN = _Item()
_line = msgspec.json.Decoder(_Line)
_said = msgspec.json.Decoder(_Said)
_item = msgspec.json.Decoder(_Item)
_suite = msgspec.json.Decoder(_Suite)


def _sides(data: bytes) -> dict[tuple[str, str], dict[str, Side]]:
    """(suite, side) → item → answer."""
    sides: dict[tuple[str, str], dict[str, Side]] = {}
    current: dict[str, Side] = {}
    for offset, line in _lines(data):
        read = _line.decode(line)
        if read.side:
            current = sides.setdefault((read.suite, read.side), {})
        else:
            current[read.item_id] = Side(offset, len(line), hash(line), read.outcome, read.logprob)
    return sides


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for line in data.split(b"\n"):
        if line:
            yield offset, line
        offset += len(line) + 1


def _items(store: ObjectStore, suite: SuiteResult) -> dict[str, _Item]:
    """What each item is, and where it stands; nothing where the suite was not kept."""
    try:
        data = store.get(suite.suite_digest)
    except NotFoundError:
        return {}  # scorecards were made before their suites were kept
    items: dict[str, _Item] = {}
    offset = 0
    for raw in _suite.decode(data).items:
        part = bytes(raw)
        # The next item starts behind this one, so each search ends where it begins.
        offset = data.index(part, offset)
        item = _item.decode(part)
        item.span = Span(offset, len(part), hash(part))
        items[item.item_id] = item
        offset += len(part)
    return items


def _sample(
    data: bytes, suite: str, item_id: str, item: _Item, champion: Side, candidate: Side
) -> Sample:
    by = _by(champion, candidate)
    return Sample(
        suite=suite,
        item_id=item_id,
        family=item.family,
        language=item.language,
        change=_change(data, champion, candidate, by),
        by=by,
        item=item.span,
        champion=champion,
        candidate=candidate,
    )


def _by(champion: Side, candidate: Side) -> float:
    """As evaluation counts it (appliance/evaluation/comparison.py)."""
    if champion.logprob is not None and candidate.logprob is not None:
        return candidate.logprob - champion.logprob
    return float(candidate.outcome == "ok") - float(champion.outcome == "ok")


def _change(data: bytes, champion: Side, candidate: Side, by: float) -> Change:
    if "void" in (champion.outcome, candidate.outcome):
        return "void"
    if by:
        return "regressed" if by < 0 else "gained"
    same = champion.checksum == candidate.checksum or _text(data, champion) == _text(
        data, candidate
    )
    return "unchanged" if same else "changed"


def _text(data: bytes, side: Side) -> bytes:
    return bytes(_said.decode(data[side.offset : side.offset + side.size]).text)


_PLACES = {change: place for place, change in enumerate(CHANGES)}


def _order(sample: Sample) -> tuple[int, bool, float]:
    """What was executed before what was scored; of the scored, what changed most comes first.

    Otherwise as the scorecard has it: sorting keeps the order of equals.
    """
    scored = sample.champion.logprob is not None
    return _PLACES[sample.change], scored, -abs(sample.by)


def page_of(ranks: Sequence[int], position: int, size: int) -> Sequence[int]:
    """The ranks from `position` on, at most `size`."""
    return ranks[max(position, 0) : max(position, 0) + size]
