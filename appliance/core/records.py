"""The records that carry the loop. Each is frozen and names the digest of the record before it.

A record's identity is the digest of its canonical JSON. `schema` says which version wrote it;
`decode` reads every version ever written (tests/golden holds one file per version).
No I/O here, and no clock: times come in as UTC seconds since the epoch.
"""

from typing import Any, Literal, TypeVar, get_args

import msgspec

from appliance.core.digests import Digest, digest_json
from appliance.core.errors import RecordError

Json = Any
Tier = Literal["gold", "silver", "bronze"]
Outcome = Literal["ok", "failed", "unknown"]
Source = Literal["human", "code", "model"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of all records: immutable, keyword-only, unknown fields refused."""

    @property
    def digest(self) -> Digest:
        """Digest of the record's canonical JSON."""
        return digest_json(msgspec.to_builtins(self))


class ArrayRef(Record, frozen=True, kw_only=True):
    """A one-dimensional little-endian array that lives in the object store.

    `dtype` is a NumPy name: ``int32`` for token ids, ``float32`` for logprobs, ``uint8`` for masks.
    """

    digest_of_bytes: Digest
    dtype: Literal["int32", "float32", "uint8"]
    count: int


class Sampling(Record, frozen=True, kw_only=True):
    """How an answer was sampled. `seed` None means that the engine chose one."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int
    seed: int | None = None


class Who(Record, frozen=True, kw_only=True):
    """Whose request it was, from the key that it came with."""

    key_id: str
    team: str
    project: str
    agent: str


class Turn(Record, frozen=True, kw_only=True):
    """One request and its answer, as the gateway's tap or a door saw it."""

    schema: Literal["turn/1"] = "turn/1"
    turn_id: str
    who: Who
    label: str
    session: str | None
    base: Digest | None
    adapter: Digest | None
    """The adapter that answered; None is the base itself, or an import from elsewhere."""
    template: Digest | None
    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()
    answer: Json
    """The assistant message: role, content, tool_calls."""
    finish_reason: str
    sampling: Sampling | None
    prompt_ids: ArrayRef | None
    answer_ids: ArrayRef | None
    logprobs: ArrayRef | None
    """Behaviour logprobs of `answer_ids` under `sampling`, float32."""
    redacted: tuple[str, ...] = ()
    """Rule ids that replaced something in this turn's prompt or answer."""
    started_at: float
    ended_at: float
    choice: int = 0
    origin: str = "gateway"
    """``gateway``, or the import format that it came from."""


class Node(Record, frozen=True, kw_only=True):
    """A turn's place in its trajectory's tree."""

    turn: Turn
    parent: int | None
    """Index of the parent node; None is a root."""
    tier: Tier
    trainable: bool
    """False: masked out (a redacted span broke the token trace and no text is left to encode)."""


class Trajectory(Record, frozen=True, kw_only=True):
    """The turns of one piece of work, as a tree. Immutable: a late turn makes a new version."""

    schema: Literal["trajectory/1"] = "trajectory/1"
    trajectory_id: str
    version: int
    who: Who
    label: str
    nodes: tuple[Node, ...]
    tier: Tier
    outcome: Outcome
    feedback: tuple[Digest, ...]
    task: str | None = None
    """The task id that the source or the agent gave, e.g. ``tau-bench/airline/12``."""
    family: str | None = None
    sealed_at: float


class Target(Record, frozen=True, kw_only=True):
    """What a feedback is about; exactly one field is set."""

    turn_id: str | None = None
    trajectory_id: str | None = None
    session: str | None = None
    reference: str | None = None
    """An outside reference: a commit, a ticket, a pull request."""


class Feedback(Record, frozen=True, kw_only=True):
    """A signal about a turn, a trajectory or something outside. May come before its target."""

    schema: Literal["feedback/1"] = "feedback/1"
    feedback_id: str
    target: Target
    kind: Literal["outcome", "correction", "comment"]
    source: Source
    actor: str
    outcome: Outcome = "unknown"
    correction: str | None = None
    """The text that the answer should have been."""
    comment: str | None = None
    tags: dict[str, str] = {}
    """Free facts for grouping: ``task``, ``family``."""
    at: float


class Event(Record, frozen=True, kw_only=True):
    """The envelope in the event log. (collector, epoch, sequence) is unique for ever."""

    schema: Literal["event/1"] = "event/1"
    collector: str
    epoch: int
    sequence: int
    key: str
    """Orders events of one piece of work: session, else key id."""
    kind: Literal["turn", "feedback", "seal"]
    record: Json
    """The record; or ``{"object": digest}`` where it is above 256 KiB."""
    blobs: dict[str, bytes] = {}
    """Array bytes by digest, for arrays too small to be worth an object of their own."""


class Exclusion(Record, frozen=True, kw_only=True):
    """Something that a dataset left out, and why."""

    reason: str
    subject: str
    """Trajectory id (or file and line), with the turn's index where it is one turn."""


class Example(Record, frozen=True, kw_only=True):
    """One training row: the answer of one turn, or a correction."""

    trajectory_id: str
    version: int
    node: int
    kind: Literal["success", "failure", "correction"]
    tier: Tier
    family: str
    task: str
    reward: float
    ids: ArrayRef
    mask: ArrayRef
    """uint8, 1 where a token is trained on: sampled tokens, or the correction's."""
    logprobs: ArrayRef | None
    """float32 behaviour logprobs, one per masked token, where they are known."""
    adapter: Digest | None


class Dataset(Record, frozen=True, kw_only=True):
    """A sealed selection: what is in, and every exclusion counted and given its reason."""

    schema: Literal["dataset/1"] = "dataset/1"
    base: Digest
    template: Digest
    recipe: Digest
    label: str
    trajectories: tuple[tuple[str, int], ...]
    """(trajectory id, version), sorted."""
    examples: tuple[Example, ...]
    exclusions: tuple[Exclusion, ...]
    counts: dict[str, int]


class Adapter(Record, frozen=True, kw_only=True):
    """What made an adapter. Its identity is `content`, over weights, config, base and tokenizer."""

    schema: Literal["adapter/1"] = "adapter/1"
    content: Digest
    base: Digest
    parent: Digest | None
    dataset: Digest
    recipe: Digest
    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    seed: int
    num_threads: int
    versions: dict[str, str]
    probe: Digest
    """Object: the trainer's logprobs on the probe prompts (see `Probe`)."""
    metrics: dict[str, float]


class Probe(Record, frozen=True, kw_only=True):
    """Fixed prompts and the trainer's teacher-forced logprobs on them, to prove what is loaded."""

    schema: Literal["probe/1"] = "probe/1"
    ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    """logprobs[i][j] is the logprob of ids[i][j + 1] given ids[i][: j + 1]."""
    base_logprobs: tuple[tuple[float, ...], ...]


class Item(Record, frozen=True, kw_only=True):
    """One evaluation item: a prompt, and how its answer is judged."""

    item_id: str
    family: str
    messages: tuple[Json, ...]
    check: Json
    """What the judge needs; see appliance/evaluation."""
    max_tokens: int = 64
    language: str = ""
    """Of prompt and answer, as a BCP 47 tag, e.g. ``de``; empty where nobody said. It changes
    nothing that is asked or judged: it is for people who look for what got worse."""


class SuiteResult(Record, frozen=True, kw_only=True):
    """Champion and candidate on the same items of one suite."""

    suite: str
    suite_digest: Digest
    kind: Literal["target", "protected", "canary", "living"]
    """``living``: what people kept as tests; measured each time, judged where a gate names it."""
    num_items: int
    """Judged pairs: items that could be judged on both sides."""
    champion_passed: int
    candidate_passed: int
    gained: int
    lost: int
    void: int
    """Items that could not be judged on either side (a timeout is void, not a failure)."""
    mcnemar_p: float
    delta: float
    lower_95: float
    """One-sided 95 % lower bound of candidate minus champion, paired bootstrap."""
    upper_95: float
    smallest_effect: float
    """The smallest true loss that this many items would have shown, 80 % power, one-sided 5 %."""
    by_family: dict[str, tuple[int, int, int]] = {}
    """Family → (items, champion passed, candidate passed)."""
    metric: Literal["pass", "nats_per_token"] = "pass"
    """``nats_per_token``: nothing was asked, given answers were scored; delta and bounds are mean
    logprob per answer token, and `passed`, `gained` and `lost` count the items that a side makes
    likelier than the other does."""


class Scorecard(Record, frozen=True, kw_only=True):
    """A candidate against the champion, on every suite. Version 1 knew no living suites."""

    schema: Literal["scorecard/1", "scorecard/2"] = "scorecard/2"
    candidate: Digest
    champion: Digest | None
    base: Digest
    suites: tuple[SuiteResult, ...]
    seed: int
    outputs: Digest | None
    """Object: every answer of both sides, one JSON line each."""
    overlap: dict[str, int] = {}
    """Suite → its items whose prompt stands in the dataset; they were left out."""


R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """The record as JSON bytes (not canonical: use `Record.digest` for identity)."""
    return msgspec.json.encode(record)


def decode(data: bytes | str, kind: type[R]) -> R:
    """Parse one record, of any version ever written.

    Raises:
        RecordError: malformed, an unknown field, or a schema that is missing or that this version
            does not know.
    """
    try:
        _require_schema(msgspec.json.decode(data, type=_Stamp), kind)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not a {kind.__name__}: {error}") from error


def convert(value: Json, kind: type[R]) -> R:
    """Like `decode`, from an already parsed JSON value."""
    try:
        _require_schema(msgspec.convert(value, type=_Stamp), kind)
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        raise RecordError(f"not a {kind.__name__}: {error}") from error


class _Stamp(msgspec.Struct, frozen=True):
    """Which version wrote a record; whatever else is in it is passed over."""

    schema: Json = None


def _require_schema(stamp: _Stamp, kind: type[Record]) -> None:
    # A field's default would take any version's fields for this version's.
    versions = get_args(kind.__annotations__.get("schema"))
    if versions and stamp.schema not in versions:
        expected = " or ".join(repr(version) for version in versions)
        came = "none" if stamp.schema is None else repr(stamp.schema)
        raise RecordError(
            f"not a {kind.__name__}: expected schema {expected}, got {came}",
            next_step="a newer version of Espalier may have written it; see docs/records.md",
        )
