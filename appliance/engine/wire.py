"""What goes over an engine's private socket. One JSON object a line, both ways."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.core import errors
from appliance.core.digests import Digest
from appliance.core.errors import AdapterError, EspalierError, UnavailableError, UsageError

Priority = Literal["interactive", "batch"]
Ids = list[Annotated[int, Meta(ge=0)]]


class Generate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Continue a prompt `n` times. Token j of choice i draws from noise keyed by (seed, i, j)."""

    prompt_ids: Annotated[Ids, Meta(min_length=1)]
    adapter: Digest | None = None
    n: Annotated[int, Meta(ge=1, le=1024)] = 1
    max_tokens: Annotated[int, Meta(ge=1)] = 16
    temperature: Annotated[float, Meta(ge=0)] = 1.0
    """0 takes the likeliest token."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    """0 keeps every token."""
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    """None lets the engine choose one."""
    stop_ids: Ids = []
    """An answer ends with one of these; it is the answer's last token."""
    stops: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=16)] = []
    """Texts that end an answer: the token that completes one is its last."""
    json_schema: str = ""
    """A JSON schema that the answer meets; empty asks for none."""
    grammar: str = ""
    """A grammar that the answer keeps to, in llguidance's Lark; empty asks for none. Beside a
    `json_schema` it is refused."""
    incarnation: str = ""
    """The engine's, in which `adapter` was proven: another one refuses, whatever is resident there.
    Empty is any."""
    logprobs: bool = True
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] = 0
    priority: Priority = "interactive"

    @property
    def has_rules(self) -> bool:
        """Whether it asks anything of the answer's text."""
        return bool(self.stops or self.json_schema or self.grammar)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error of our tree, told to the other side."""

    kind: str
    message: str
    next_step: str = ""
    reason: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an answer: tokens of a choice, its end, the end of all, or an error."""

    index: int = -1
    ids: list[int] = []
    logprobs: list[float] = []
    """Of each id, under the distribution that it was drawn from (temperature, top_p and top_k
    applied); under the plain softmax at temperature 0."""
    top_logprobs: list[list[tuple[int, float]]] = []
    finish_reason: Literal["", "stop", "length"] = ""
    done: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: Problem | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep an adapter resident for `holder`, or stop keeping it."""

    adapter: Digest | None = None
    """None, in a release: whatever this holder holds."""
    holder: str = ""


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """What a release did."""

    freed: list[Digest] = []
    """No longer resident."""
    deferred: list[Digest] = []
    """Freed as soon as the requests that use it have ended."""


class Score(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logprobs of given ids."""

    ids: list[Ids]
    adapter: Digest | None = None
    every_replica: bool = False
    """Ask every replica, and refuse unless they say the same."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """logprobs[i][j] is the logprob of ids[i][j + 1] after ids[i][: j + 1], at temperature 1."""

    logprobs: list[list[float]]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is."""

    base: Digest
    resident: list[Digest]
    running: int
    waiting: int
    tokens_generated: int
    rss_mib: float
    people_quiet_s: float | None = None
    """Since an interactive request was last under way, 0 while one is; None: none yet. The socket's
    server fills it, for every engine."""
    incarnation: str = ""
    """From this engine's start to its end; one that is started anew has another, and has lost its
    adapters. The socket's server fills it, too."""
    capabilities: dict[str, str | int | float | bool]


_STATUS = {"NotFoundError": 404, "ConflictError": 409, "UnavailableError": 503}


def describe(error: EspalierError) -> tuple[int, Problem]:
    """HTTP status and problem for an error of ours."""
    kind = type(error).__name__
    status = _STATUS.get(kind, 400 if isinstance(error, UsageError) else 422)
    reason = error.reason if isinstance(error, AdapterError) else ""
    return status, Problem(
        kind=kind, message=error.message, next_step=error.next_step, reason=reason
    )


def revive(problem: Problem) -> EspalierError:
    """The error that a problem describes."""
    if problem.kind == "AdapterError":
        return AdapterError(problem.reason, problem.message, next_step=problem.next_step)
    kind = getattr(errors, problem.kind, None)
    if isinstance(kind, type) and issubclass(kind, EspalierError):
        return kind(problem.message, next_step=problem.next_step)
    return UnavailableError(f"the engine failed: {problem.message}", next_step=problem.next_step)


def revive_body(body: bytes) -> EspalierError:
    """The error in an answer's body, whatever the body is."""
    try:
        return revive(msgspec.json.decode(body, type=Problem))
    except msgspec.DecodeError:
        return UnavailableError(f"the engine answered {body[:200]!r}")
