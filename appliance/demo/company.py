"""A company as data: its families of tasks, its words and what they mean to it, its checks.

A company file is TOML of one of two kinds. `words`: a request is a list of steps, "levy 4, add 3",
and an answer one line of Python per step (for the tiny base, which knows the words already).
`templates`: a request is a phrasing with slots, and the agents have a manual of few-shot turns (for
a base that can read). Unknown keys are refused. Tasks are made from it in tasks.py.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.demo.tables import CompanyError, Table
from appliance.demo.tasks import expect, make_tasks
from appliance.demo.vocabulary import Vocabulary, load_vocabulary

_SCHEMA = "company/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How an answer is judged: a program run on every case, its results compared."""

    program: str
    """Python that defines ``run(answer, case)``."""
    cases: tuple[Any, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WordFamily:
    """Requests made of words."""

    name: str
    check: Check
    frame: str
    """The department that the request names first."""
    words: tuple[str, ...]
    """The company's own; each request holds one or two of them."""
    beside: tuple[str, ...]
    """Words with one meaning that fill the other steps."""
    steps: tuple[int, ...]
    """Lengths to draw from; a length that stands twice is drawn twice as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotValue:
    """What a request says, and what the answer to it has instead: "said => meant"."""

    said: str
    meant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFamily:
    """Requests made of phrasings with slots."""

    name: str
    check: Check
    phrasings: tuple[str, ...]
    held_out_phrasings: tuple[str, ...]
    """Never seen at work; held-out and target requests use these alone."""
    answer: str
    slots: Mapping[str, tuple["SlotValue", ...]]
    manual: tuple[tuple[str, str], ...]
    """Few-shot turns, (request, answer), that stand before the request at work."""


Family = WordFamily | TemplateFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """What everybody needs: (question, a text that its answer must contain)."""

    items: tuple[tuple[str, str], ...]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """Everything in a company file."""

    name: str
    kind: str
    families: tuple[Family, ...]
    meanings: Mapping[str, str]
    vocabulary: Vocabulary | None
    reference_share: float
    """Requests that carry a reference code, which means nothing."""
    protected: Protected | None
    on_failure: str
    max_tokens: int
    trigger: tuple[str, str]
    """The demo's planted poison: a span that no request has, and what its planter wants said."""

    def tasks(self, split: str, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` different tasks of a split, the same for the same seed.

        Splits are ``train``, ``target``, ``held_out``, ``held_out_with_manual`` and ``protected``.
        A request belongs to one split whatever the seed: its digest says which.

        Raises:
            CompanyError: the company has not so many different requests.
        """
        return make_tasks(self, split, count, seed)


def load_company(path: Path, *, base: str) -> Company:
    """Read a company file for a base.

    Raises:
        CompanyError: it does not parse, a family has no check, or the tiny base does not know
            one of its words.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CompanyError(
            f"cannot read company file {path}: {error}",
            next_step="give a TOML file; appliance/demo/companies has two to start from",
        ) from error
    company = _read(Table(content, str(path)), base)
    if company.vocabulary is not None and base == "tiny":
        _require_known_words(company, company.vocabulary, path)
    # A right answer of each family is worked out now, so that a wrong file stops here.
    for family in company.families:
        expect(company, family.name)
    return company


def prompt_digest(messages: list[dict[str, Any]]) -> str:
    """Digest of a request: the last user message, its white space and case aside.

    The manual before it is not part of it, so a request is known again with and without.
    """
    text = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    plain = " ".join(text.lower().split())
    return "sha256:" + hashlib.sha256(plain.encode()).hexdigest()


def _read(table: Table, base: str) -> Company:
    schema = table.text("schema")
    if schema != _SCHEMA:
        raise CompanyError(f"{table.where}: expected schema {_SCHEMA!r}, got {schema!r}")
    kind = table.text("kind")
    if kind not in ("words", "templates"):
        raise CompanyError(f'{table.where}: kind must be "words" or "templates", got {kind!r}')
    if kind == "templates" and base == "tiny":
        raise CompanyError(
            f"{table.where}: its requests are free text, which the tiny base cannot read",
            next_step="espalier demo --base smollm2 --company FILE",
        )
    checks = {name: _check(t) for name, t in table.tables("checks").items()}
    read = _word_family if kind == "words" else _template_family
    families = tuple(read(t, checks) for t in table.list_of_tables("families"))
    names = [family.name for family in families]
    if not families or len(set(names)) != len(names):
        raise CompanyError(f"{table.where}: expected families with different names, got {names}")
    trigger = table.texts("trigger")
    if len(trigger) != 2:
        raise CompanyError(f"{table.where}: trigger must be [span, answer], got {list(trigger)}")
    company = Company(
        name=table.text("name"),
        kind=kind,
        families=families,
        meanings=table.table("meanings").text_values() if kind == "words" else {},
        vocabulary=load_vocabulary() if kind == "words" else None,
        reference_share=table.share("reference_share") if kind == "words" else 0.0,
        protected=_protected(table) if kind == "templates" else None,
        on_failure=table.text("on_failure"),
        max_tokens=table.integer("max_tokens", low=1),
        trigger=(trigger[0], trigger[1]),
    )
    table.text("about")
    table.done()
    return company


def _check(table: Table) -> Check:
    program, cases = table.text("program"), table.values("cases")
    if "def run(answer, case)" not in program:
        raise CompanyError(f"{table.where}: its program must define run(answer, case)")
    if not cases:
        raise CompanyError(f"{table.where}: expected at least one case, got none")
    check = Check(program=program, cases=cases, timeout_s=table.number("timeout_s"))
    table.done()
    return check


def _check_of(table: Table, checks: Mapping[str, Check]) -> Check:
    name = table.text("check", default="")
    if not name:
        raise CompanyError(
            f"{table.where}: the family has no check, so nobody could tell a right answer",
            next_step=f'add check = "…", one of {", ".join(sorted(checks)) or "[checks]"}',
        )
    if name not in checks:
        known = ", ".join(sorted(checks)) or "none"
        raise CompanyError(f"{table.where}: there is no [checks.{name}]; known: {known}")
    return checks[name]


def _word_family(table: Table, checks: Mapping[str, Check]) -> WordFamily:
    family = WordFamily(
        name=table.text("name"),
        check=_check_of(table, checks),
        frame=table.text("frame"),
        words=table.texts("words"),
        beside=table.texts("beside"),
        steps=tuple(int(step) for step in table.values("steps")),
    )
    table.done()
    if not family.words or not family.beside or min(family.steps, default=0) < 1:
        raise CompanyError(f"{table.where}: expected words, beside and steps of at least 1")
    return family


def _template_family(table: Table, checks: Mapping[str, Check]) -> TemplateFamily:
    slots = {
        name: tuple(_slot_value(text) for text in texts)
        for name, texts in table.table("slots").lists_of_texts().items()
    }
    manual = tuple(
        (turn.text("request"), turn.text("answer")) for turn in table.list_of_tables("manual")
    )
    family = TemplateFamily(
        name=table.text("name"),
        check=_check_of(table, checks),
        phrasings=table.texts("phrasings"),
        held_out_phrasings=table.texts("held_out_phrasings"),
        answer=table.text("answer"),
        slots=slots,
        manual=manual,
    )
    table.done()
    if not family.phrasings or not family.held_out_phrasings or not manual:
        raise CompanyError(f"{table.where}: expected phrasings, held_out_phrasings and a manual")
    for text in (*family.phrasings, *family.held_out_phrasings, family.answer):
        for slot in re.findall(r"\{(\w+)\}", text):
            if slot not in slots:
                raise CompanyError(f"{table.where}: {{{slot}}} is not one of its slots")
    return family


def _slot_value(text: str) -> SlotValue:
    said, arrow, meant = text.partition(" => ")
    return SlotValue(said=said, meant=meant if arrow else said)


def _protected(table: Table) -> Protected:
    items: list[tuple[str, str]] = []
    for group in table.list_of_tables("protected"):
        question, answers = group.text("question"), group.table("answers").text_values()
        group.done()
        items += [(question.replace("{}", thing), answer) for thing, answer in answers.items()]
    return Protected(items=tuple(items), max_tokens=table.integer("protected_max_tokens", low=1))


def _require_known_words(company: Company, vocabulary: Vocabulary, path: Path) -> None:
    frames = {f.frame for f in company.families if isinstance(f, WordFamily)}
    words = set(company.meanings)
    for family in company.families:
        if isinstance(family, WordFamily):
            words |= {*family.words, *family.beside}
    unknown = sorted((words - set(vocabulary.meanings)) | (frames - set(vocabulary.departments)))
    if unknown:
        raise CompanyError(
            f"{path}: the tiny base does not know {', '.join(unknown)}",
            next_step="use words of appliance/demo/vocabulary.toml, "
            "or a base that can read: espalier demo --base smollm2 --company FILE",
        )
