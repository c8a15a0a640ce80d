"""Reading a company file: every key is known, and each family's right answer passes its check."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from appliance.demo.company import (
    Check,
    Company,
    Protected,
    SlotValue,
    TemplateFamily,
    WordFamily,
)
from appliance.demo.tables import CompanyError, Table
from appliance.demo.tasks import require_right_answer
from appliance.demo.vocabulary import Vocabulary, load_vocabulary

_SCHEMA = "company/1"


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
        require_right_answer(company, family.name)
    return company


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
