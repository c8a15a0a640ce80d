"""Label, redact, key, append: what every record goes through on its way into the event log.

One thread appends; whoever waits at the same moment shares one fsync. A turn that was handed in
without waiting stays in a bounded queue and is tried again until it is durable; when the queue is
full it is refused, counted and logged. What is not here: reading the log (collectors).
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Literal

import msgspec

from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import EspalierError, RecordError, RefusedError, UnavailableError
from appliance.core.event_log import EventLog
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.open_log import open_log
from appliance.core.records import Event, Feedback, Json, Target, Turn, encode
from appliance.core.settings import Settings
from appliance.ingest.epoch import next_epoch
from appliance.ingest.secrets import Redactor, load_rules
from policies.labels import flows_to

PAYLOAD_MAX_BYTES = 256 * 1024
"""A larger record, or larger arrays, go to the object store, their digests to the log."""

Kind = Literal["turn", "feedback", "seal"]

_QUEUE_MAX = 4096
_BATCH_MAX = 256
_RETRY_S = 0.5
_log = logging.getLogger("espalier.ingest")


class IngestCounts(msgspec.Struct, kw_only=True):
    """What became of everything that was handed in since the start."""

    appended: int = 0
    redacted: int = 0
    refused: int = 0
    """Told to the caller as an error: the log took nothing, and the caller still has the record."""
    overflowed: int = 0
    """Lost to the log: the queue was full while the log took nothing."""


class _Item(msgspec.Struct):
    event: Event
    objects: tuple[bytes, ...]
    keep: bool
    """Tried again until durable, because nobody else has it."""
    written: "Future[None]"
    """Done once no kill -9 can take the record back; not later than `done`."""
    done: "Future[None]"
    """Done once it is durable, or refused."""


class Ingest:
    """The only appender. Thread-safe; one per process and collector name."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        *,
        collector: str,
        log: EventLog | None = None,
        queue_max: int = _QUEUE_MAX,
    ) -> None:
        self.counts = IngestCounts()
        self._ceiling = settings.gateway.label
        self._redactor = Redactor(load_rules(home))
        self._objects = ObjectStore(home.objects)
        self._log = log or open_log(home, settings)
        self._collector = collector
        self._epoch = next_epoch(home, collector)
        self._sequence = 0
        self._queue_max = queue_max
        self._queue: deque[_Item] = deque()
        self._in_hand = 0
        self._failure: UnavailableError | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"ingest-{collector}", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """Why the log takes nothing just now; None while it does."""
        failure = self._failure
        return None if failure is None else failure.message

    def turn(self, turn: Turn, arrays: Mapping[Digest, bytes], *, wait: bool = True) -> None:
        """Append a turn. With `wait` it is durable on return; without, after `flush`.

        Raises:
            RefusedError: its label is above what this endpoint may handle.
            RecordError: an array that the turn refers to is missing, or is not what it says.
            UnavailableError: the log takes nothing (full disk, dead broker).
        """
        item = self._turn_item(turn, arrays, keep=not wait)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._queue) < self._queue_max)
        self._put(item)
        if wait:
            item.done.result()

    def send_turn(self, turn: Turn, arrays: Mapping[Digest, bytes]) -> "Future[None]":
        """Hand in a turn without blocking; the future is done once it is written.

        For the gateway's tap: the answer exists, so the turn is tried again until it is durable.
        What is written outlives a kill -9; a power cut may take what was written last.

        Raises:
            UnavailableError: the queue is full. The turn is lost to the log: counted and logged.
            RefusedError, RecordError: as for `turn`.
        """
        item = self._turn_item(turn, arrays, keep=True)
        try:
            self._put(item)
        except UnavailableError:
            self.counts.overflowed += 1
            _log.error(
                "turn %s is lost: ingest queue full (%d so far)",
                turn.turn_id,
                self.counts.overflowed,
            )
            raise
        return item.written

    def feedback(self, feedback: Feedback) -> None:
        """Append a feedback; durable on return. Its target need not exist yet."""
        self.send_feedback(feedback).result()

    def send_feedback(self, feedback: Feedback) -> "Future[None]":
        """Like `feedback`, without blocking: the future is done once it is durable, or refused.

        Raises:
            RecordError: the target does not name exactly one thing.
            UnavailableError: the queue is full.
        """
        clean = self._redactor.feedback(feedback)
        if clean is not feedback:
            self.counts.redacted += 1
        return self._put(self._item("feedback", _target_key(feedback.target), clean, keep=False))

    def seal(self, target: Target) -> None:
        """Append the explicit end of a session or trajectory; durable on return."""
        self._put(self._item("seal", _target_key(target), target, keep=False)).result()

    def flush(self, timeout_s: float = 60.0) -> None:
        """Return once everything handed in so far is durable or refused.

        Raises:
            UnavailableError: not in time; what was handed in is still being tried.
        """
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._queue and not self._in_hand, timeout_s)
        if not idle:
            raise self._failure or UnavailableError(
                f"the event log did not finish in {timeout_s} s"
            )

    def require_room(self) -> None:
        """Raise while the log takes nothing or the queue is full: better no answer than a lost one.

        Raises:
            UnavailableError: with the log's own reason.
        """
        if self._failure is not None:
            raise self._failure
        if len(self._queue) >= self._queue_max:
            raise UnavailableError("the event log is behind: the ingest queue is full")

    def close(self, timeout_s: float = 10.0) -> None:
        """Append what is waiting, as far as the log takes it, and close the log."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._queue or self._in_hand:
            _log.error("closed with %d records not appended", len(self._queue) + self._in_hand)
        self._log.close()

    def _turn_item(self, turn: Turn, arrays: Mapping[Digest, bytes], *, keep: bool) -> _Item:
        if not flows_to(turn.label, self._ceiling):
            raise RefusedError(
                f"label {turn.label!r} is above this endpoint's, {self._ceiling!r}",
                next_step="raise [gateway] label, or use a key with a lower label",
            )
        clean = self._redactor.turn(turn)
        if clean is not turn:
            self.counts.redacted += 1
        return self._item(
            "turn", turn.session or turn.who.key_id, clean, keep, _arrays_of(clean, arrays)
        )

    def _item(
        self,
        kind: Kind,
        key: str,
        record: Turn | Feedback | Target,
        keep: bool,
        blobs: Mapping[str, bytes] | None = None,
    ) -> _Item:
        """The event without its sequence, which it gets when it is appended."""
        data: bytes = encode(record)
        large: list[bytes] = []
        body: Json = msgspec.Raw(data)
        if len(data) > PAYLOAD_MAX_BYTES:
            large.append(data)
            body = {"object": digest_bytes(data)}
        if blobs and sum(map(len, blobs.values())) > PAYLOAD_MAX_BYTES:
            large += blobs.values()
            blobs = None
        event = Event(
            collector=self._collector,
            epoch=self._epoch,
            sequence=0,
            key=key,
            kind=kind,
            record=body,
            blobs=dict(blobs or {}),
        )
        written: Future[None] = Future()
        done: Future[None] = Future()
        # A caller that is cancelled must not cancel the record too: it is in the queue.
        written.set_running_or_notify_cancel()
        done.set_running_or_notify_cancel()
        return _Item(event=event, objects=tuple(large), keep=keep, written=written, done=done)

    def _put(self, item: _Item) -> "Future[None]":
        with self._changed:
            if self._closed:
                raise UnavailableError("ingest is closed")
            if len(self._queue) >= self._queue_max:
                raise self._failure or UnavailableError("the ingest queue is full")
            self._sequence += 1
            item.event = msgspec.structs.replace(item.event, sequence=self._sequence)
            self._queue.append(item)
            self._changed.notify_all()
        return item.done

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH_MAX))]
                self._in_hand = len(batch)
            if not batch:
                return
            kept = self._append(batch)
            with self._changed:
                self._queue.extendleft(reversed(kept))
                self._in_hand = 0
                self._changed.notify_all()
                if kept:
                    if self._closed:
                        return
                    self._changed.wait_for(lambda: self._closed, _RETRY_S)

    def _append(self, batch: list[_Item]) -> list[_Item]:
        """Append a batch; returns what must be tried again, in order."""
        try:
            objects = [data for item in batch for data in item.objects]
            if objects:
                self._objects.put_many(objects)
            self._log.append(
                [(item.event.key, encode(item.event)) for item in batch],
                on_written=lambda: _set_written(batch),
            )
        except UnavailableError as error:
            return self._refuse(batch, error)
        except EspalierError as error:
            if len(batch) > 1:  # one bad record must not take its neighbours with it
                return [kept for item in batch for kept in self._append([item])]
            _log.error("a record was refused by the event log: %s", error)
            return self._settle(batch, error)
        if self._failure is not None:
            _log.warning("the event log takes records again")
        self._failure = None
        self.counts.appended += len(batch)
        return self._settle(batch, None)

    def _refuse(self, batch: list[_Item], error: UnavailableError) -> list[_Item]:
        kept = [item for item in batch if item.keep]
        if kept and self._failure is None:
            _log.error("the event log takes nothing, %d records wait: %s", len(kept), error)
        self._failure = error if kept else None
        self._settle([item for item in batch if not item.keep], error)
        return kept

    def _settle(self, batch: list[_Item], error: EspalierError | None) -> list[_Item]:
        if error is None:
            _set_written(batch)
        for item in batch:
            if error is None:
                item.done.set_result(None)
                continue
            self.counts.refused += 1
            item.done.set_exception(error)
            if not item.written.done():
                item.written.set_exception(error)
        return []


def _set_written(batch: list[_Item]) -> None:
    for item in batch:
        if not item.written.done():
            item.written.set_result(None)


def _arrays_of(turn: Turn, arrays: Mapping[Digest, bytes]) -> dict[str, bytes]:
    """The arrays that the turn still refers to, each checked against its reference."""
    found: dict[str, bytes] = {}
    for ref in (turn.prompt_ids, turn.answer_ids, turn.logprobs):
        if ref is None:
            continue
        data = arrays.get(ref.digest_of_bytes)
        if data is None or digest_bytes(data) != ref.digest_of_bytes:
            raise RecordError(
                f"turn {turn.turn_id}: an array is missing or not what its digest says"
            )
        found[ref.digest_of_bytes] = data
    return found


def _target_key(target: Target) -> str:
    named = [name for name in msgspec.structs.astuple(target) if name is not None]
    if len(named) != 1 or not named[0]:
        raise RecordError(
            "a target names exactly one of turn_id, trajectory_id, session and reference, "
            f"got {len(named)}"
        )
    return str(named[0])
