"""Import: files in, turns and outcomes through ingest, one report per file.

A trajectory's name and its turns' names come from the record's content, so a file that is imported
twice doubles nothing. The whole record, secrets redacted, is kept as an object; the outcome's tags
name it.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError, RecordError, UnavailableError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Feedback, Outcome, Target, Turn, Who
from appliance.ingest import Ingest
from appliance.ingest.secrets import load_rules
from collectors.importing import openai_chat, swe_agent, tau_bench
from collectors.importing.draft import Draft, DraftTurn, Raw, Skipped
from collectors.importing.stream import Found, records
from collectors.joins import text_chain
from policies import redaction

FORMATS = (tau_bench, swe_agent, openai_chat)
KEY_ID = "import"

_WAITING_MAX_BYTES = 16 << 20
_RECORD_TURNS_MAX_BYTES = 512 << 20
"""Each turn repeats its prompt: a long record with many answers would fill the log by itself."""
_SKIPPED_SHOWN = 100
_ENDINGS = 16
_NEXT_STEP = "mend it and import it again: what was taken in already is not doubled"


class FileReport(msgspec.Struct, kw_only=True):
    """What became of one file."""

    file: str
    format: str | None = None
    trajectories: int = 0
    turns: int = 0
    successes: int = 0
    skipped: list[Skipped] = []
    """The first hundred; `num_skipped` counts all."""
    num_skipped: int = 0
    error: str | None = None
    """Why the file, or a part of it, was not read."""
    next_step: str = ""
    faults: int = 0
    """Skipped because something is wrong with the file, not because there was nothing in it."""

    @property
    def clean(self) -> bool:
        """Whether everything in the file could be read."""
        return self.error is None and not self.faults


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Under whose name, and with which label, an import stands."""

    team: str = "import"
    project: str = "import"
    label: str
    outcome: Outcome | None = None
    """A person's word on how everything in these files turned out."""


class Importer:
    """Reads files into the event log. Sessions that it opened and closed are in `ended`."""

    def __init__(self, home: Home, ingest: Ingest, source: Source) -> None:
        self.ended: list[str] = []
        self._ingest = ingest
        self._source = source
        self._objects = ObjectStore(home.objects)
        rules = load_rules(home)
        self._redact = partial(redaction.redact, rules=rules)
        self._sessions: dict[str, str] = {}
        """Digest of a logged conversation so far → its session."""

    def import_file(self, path: Path) -> FileReport:
        """Everything in one file that can be mapped; the report says what could not.

        Raises:
            UnavailableError: the event log or the disk takes nothing; what was reported is safe.
        """
        report = FileReport(file=str(path), skipped=[])
        waiting = _Waiting()
        seen: dict[str, str] = {}
        try:
            for found in records(path):
                if isinstance(found, Skipped):
                    _skip(report, found, fault=True)
                    continue
                self._take(found, report, waiting, seen)
                if waiting.size_bytes > _WAITING_MAX_BYTES:
                    self._finish(waiting)
        except UnavailableError:
            raise
        except EspalierError as error:
            report.error, report.next_step = error.message, error.next_step
        self._finish(waiting)
        if report.error is None and not report.trajectories:
            report.error = _nothing_in(report, path)
        elif report.error is None and report.faults:
            report.error = _not_all_of(report, path)
        report.next_step = report.next_step or (_NEXT_STEP if report.error else "")
        return report

    def _take(
        self, found: Found, report: FileReport, waiting: "_Waiting", seen: dict[str, str]
    ) -> None:
        record, where = found.value, found.where
        try:
            draft = _read(record)
        except RecordError as error:
            self._keep(record)
            detail = error.message
            _skip(report, Skipped(where=where, reason="malformed", detail=detail), fault=True)
            return
        if draft is None:
            self._keep(record)
            detail = f"no known format has the fields {sorted(record)[:8]}"
            _skip(report, Skipped(where=where, reason="unknown_format", detail=detail), fault=True)
            return
        report.format = report.format or draft.format
        for skipped in draft.skipped:
            place = f"{where} {skipped.where}".strip()
            _skip(report, msgspec.structs.replace(skipped, where=place))
        identity = _identity(record)
        if identity in seen:
            detail = f"same as {seen[identity]}"
            _skip(report, Skipped(where=where, reason="duplicate", detail=detail))
            return
        seen[identity] = where
        size = sum(_size(turn) for turn in draft.turns)
        if size > _RECORD_TURNS_MAX_BYTES:
            detail = f"{len(draft.turns)} turns hold {size >> 20} MiB with their prompts"
            _skip(report, Skipped(where=where, reason="too_large", detail=detail), fault=True)
            return
        if not draft.turns:
            self._keep(record)
            return
        session = self._session(draft, identity)
        waiting.size_bytes += size
        source = f"{Path(report.file).name}, {where}"
        self._send(draft, identity, session, {"raw": self._keep(record), "source": source}, waiting)
        waiting.all_sessions.add(session)
        if self._outcome(draft) == "ok":
            waiting.successes.add(session)
        report.trajectories = len(waiting.all_sessions)
        report.successes = len(waiting.successes)
        report.turns += len(draft.turns)

    def _send(
        self,
        draft: Draft,
        identity: str,
        session: str,
        origin: dict[str, str],
        waiting: "_Waiting",
    ) -> None:
        now = time.time()
        who = Who(
            key_id=KEY_ID, team=self._source.team, project=self._source.project, agent=draft.format
        )
        for number, turn in enumerate(draft.turns):
            at = turn.at if turn.at is not None else now
            self._ingest.turn(
                Turn(
                    turn_id=f"imp-{identity[:24]}-{number}",
                    who=who,
                    label=self._source.label,
                    session=session,
                    base=None,
                    adapter=None,
                    template=None,
                    messages=turn.messages,
                    tools=turn.tools,
                    answer=turn.answer,
                    finish_reason=turn.finish_reason,
                    sampling=None,
                    prompt_ids=None,
                    answer_ids=None,
                    logprobs=None,
                    started_at=at,
                    ended_at=at,
                    choice=turn.choice,
                    origin=draft.format,
                ),
                {},
                wait=False,
            )
        asserted = self._source.outcome is not None
        tags = {**draft.tags, "format": draft.format, **origin}
        tags |= {name: text for name in ("task", "family") if (text := getattr(draft, name))}
        waiting.feedback.append(
            Feedback(
                feedback_id=f"imp-{identity[:24]}-{self._outcome(draft)}",
                target=Target(session=session),
                kind="comment" if self._outcome(draft) == "unknown" else "outcome",
                source="human" if asserted else "code",
                actor=KEY_ID,
                outcome=self._outcome(draft),
                tags=tags,
                at=now,
            )
        )
        waiting.sessions.add(session)

    def _finish(self, waiting: "_Waiting") -> None:
        """Turns first, then what is known about them, then the end of their sessions."""
        self._ingest.flush()
        ending = sorted(waiting.sessions)
        with ThreadPoolExecutor(_ENDINGS) as pool:
            list(pool.map(self._ingest.feedback, waiting.feedback))
            list(pool.map(self._ingest.seal, [Target(session=session) for session in ending]))
        self.ended += ending
        waiting.clear()

    def _outcome(self, draft: Draft) -> Outcome:
        return self._source.outcome or draft.outcome

    def _session(self, draft: Draft, identity: str) -> str:
        """The session given; that of the line which this one goes on from; else a new one."""
        session = draft.session or f"import-{identity[:32]}"
        if not draft.joins:
            return session
        for text in reversed(list(text_chain(draft.turns[0].messages))):
            if draft.session is None and text in self._sessions:
                session = self._sessions[text]
                break
        for turn in draft.turns:
            *_, end = text_chain((*turn.messages, turn.answer))
            self._sessions[end] = session
        return session

    def _keep(self, record: Raw) -> Digest:
        clean, _ = redaction.redact_json(record, self._redact)
        return self._objects.put(json.dumps(clean, sort_keys=True).encode())


class _Waiting(msgspec.Struct):
    """What was handed to ingest without waiting, and what must follow it."""

    feedback: list[Feedback] = []
    sessions: set[str] = set()
    all_sessions: set[str] = set()
    successes: set[str] = set()
    size_bytes: int = 0

    def clear(self) -> None:
        self.feedback = []
        self.sessions = set()
        self.size_bytes = 0


def _read(record: Raw) -> Draft | None:
    for form in FORMATS:
        if form.claims(record):
            draft: Draft = form.read(record)
            _require_encodable(draft.turns)
            return draft
    return None


def _require_encodable(turns: Sequence[DraftTurn]) -> None:
    # Turns of one conversation share their messages: look at each once.
    parts = {id(part): part for t in turns for part in (*t.messages, *t.tools, t.answer)}
    try:
        for part in parts.values():
            json.dumps(part, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RecordError("text with half a surrogate pair, which UTF-8 cannot hold") from error


def _identity(record: Raw) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _size(turn: DraftTurn) -> int:
    return sum(_strings(turn.messages)) + sum(_strings(turn.answer))


def _strings(value: object) -> Iterator[int]:
    if isinstance(value, str):
        yield len(value) + 16
    elif isinstance(value, dict):
        for child in value.values():
            yield from _strings(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _strings(child)


def _skip(report: FileReport, skipped: Skipped, *, fault: bool = False) -> None:
    report.num_skipped += 1
    report.faults += fault
    if len(report.skipped) < _SKIPPED_SHOWN:
        report.skipped.append(skipped)


def _not_all_of(report: FileReport, path: Path) -> str:
    first = report.skipped[0]
    return (
        f"{path}: {report.faults} of its records could not be read, the rest was imported; "
        f"the first skipped is {first.where} ({first.reason}: {first.detail[:200]})"
    )


def _nothing_in(report: FileReport, path: Path) -> str:
    reasons = sorted({skipped.reason for skipped in report.skipped})
    said = f" ({', '.join(reasons)}: {report.skipped[0].detail[:200]})" if reasons else ""
    return f"{path} holds no trajectory that can be read{said}"
