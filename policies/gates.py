"""The gate language: a closed, typed TOML that says which numbers let an adapter ship.

A gate names suites (by `kind` or by one `suite`) and what must hold for each of them: either
`metric` `op` `threshold`, or a `margin`, which is short for ``lower_95 > -margin``.
What is not here: the judge, see judging.py.
"""

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from appliance.core.errors import PolicyError
from appliance.core.records import Record, SuiteResult

Kind = Literal["target", "protected", "canary", "living"]
Metric = Literal[
    "delta",
    "lower_95",
    "upper_95",
    "mcnemar_p",
    "champion_rate",
    "candidate_rate",
    "smallest_effect",
    "gained",
    "lost",
    "void",
]
Op = Literal[">", ">=", "<", "<="]
_MEND = "mend the gate file (policies/gates/default.toml is one) and set it again"
Share = Annotated[float, Meta(ge=0, le=1)]


class Gate(Record, frozen=True, kw_only=True):
    """One line of the law."""

    name: str
    kind: Kind | None = None
    """Every suite of this kind; or `suite`, the name of one."""
    suite: str | None = None
    metric: Metric | None = None
    op: Op | None = None
    threshold: float | None = None
    margin: Share | None = None
    """How much worse the candidate may be: a protected suite's allowance."""
    min_items: Annotated[int, Meta(ge=1)] = 1
    """Fewer judged pairs than this are no evidence."""
    max_void_share: Share = 0.05
    """More void items than this and the gate is not met: answers that hang hide what they lost."""
    required: bool = True
    """False: shown to the approver, decides nothing."""

    def covers(self, suite: SuiteResult) -> bool:
        """Whether this gate judges `suite`."""
        return self.kind == suite.kind or self.suite == suite.suite

    @property
    def demand(self) -> str:
        """What must hold, as a person reads it."""
        metric, op, threshold = self.condition
        return f"{metric} {op} {threshold:g}"

    @property
    def condition(self) -> tuple[Metric, Op, float]:
        """The comparison, with `margin` spelled out.

        Raises:
            PolicyError: it has neither a margin nor a whole comparison.
        """
        if self.margin is not None:
            return "lower_95", ">", -self.margin
        if self.metric is None or self.op is None or self.threshold is None:
            raise PolicyError(f"gate {self.name!r} needs metric, op and threshold, or a margin")
        return self.metric, self.op, self.threshold


class Gates(Record, frozen=True, kw_only=True):
    """A gate file. Its digest goes into the round, so the law is sealed when the round starts."""

    schema: Literal["gates/1"]
    name: str
    quorum: Annotated[int, Meta(ge=2)] = 2
    """Different people, none of them an author, who must approve."""
    canary_spans: Annotated[int, Meta(ge=1)] = 4
    """Rare spans of the dataset that canaries are made of."""
    hold_out_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the tasks that curation keeps from training. Their successful answers become a
    target suite, judged by likelihood: for work that nobody can do again."""
    gate: tuple[Gate, ...]


def parse_gates(text: str, *, source: str = "gates") -> Gates:
    """Read a gate file's text; `source` is its name for messages.

    Raises:
        PolicyError: not TOML, an unknown key, metric or kind, no required gate, or a gate that
            does not say one thing about some suite.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{source} is not TOML: {error}", next_step=_MEND) from error
    _refuse_unknown(tables, source)
    try:
        gates = msgspec.convert(tables, Gates)
    except msgspec.ValidationError as error:
        raise PolicyError(f"{source}: {error}", next_step=_MEND) from error
    require_law(gates, source=source)
    return gates


def require_law(gates: Gates, *, source: str = "gates") -> None:
    """Raise unless the gates are a law that can refuse something.

    Raises:
        PolicyError: no required gate, two gates of one name, or a gate that is not well formed.
    """
    # An empty list would let everything through.
    if not any(gate.required for gate in gates.gate):
        raise PolicyError(
            f"{source}: no required [[gate]], so nothing could be refused", next_step=_MEND
        )
    names = [gate.name for gate in gates.gate]
    if len(set(names)) < len(names):
        raise PolicyError(f"{source}: two gates have the same name", next_step=_MEND)
    for gate in gates.gate:
        where = f"{source}: gate {gate.name!r}"
        if (gate.kind is None) == (gate.suite is None):
            raise PolicyError(f"{where} must name either a kind or a suite", next_step=_MEND)
        compared = (gate.metric, gate.op, gate.threshold)
        if gate.margin is None and None in compared:
            raise PolicyError(
                f"{where} needs metric, op and threshold, or a margin", next_step=_MEND
            )
        if gate.margin is not None and compared != (None, None, None):
            raise PolicyError(
                f"{where} has a margin, so metric, op and threshold must not stand", next_step=_MEND
            )


def _refuse_unknown(tables: dict[str, Any], source: str) -> None:
    """Say which word is misspelt, and what it may have meant."""
    _refuse_word(tables, Gates.__struct_fields__, "key", source)
    gates = tables.get("gate", [])
    if not isinstance(gates, list) or not all(isinstance(gate, dict) for gate in gates):
        raise PolicyError(
            f"{source}: gates stand in [[gate]] tables, got {type(gates).__name__}", next_step=_MEND
        )
    closed = {"metric": Metric, "op": Op, "kind": Kind}
    for number, gate in enumerate(gates, start=1):
        where = f"{source}: gate {gate.get('name', number)!r}"
        _refuse_word(gate, Gate.__struct_fields__, "key", where)
        for field, words in closed.items():
            if field in gate:
                _refuse_word([gate[field]], get_args(words), field, where)


def _refuse_word(words: Iterable[Any], known: Iterable[str], what: str, where: str) -> None:
    known = list(known)
    for word in words:
        if word in known:
            continue
        close = get_close_matches(str(word), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise PolicyError(f"{where}: unknown {what} {word!r}; {hint}", next_step=_MEND)
