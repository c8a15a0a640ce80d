"""Making tasks from a company: requests, right answers, and what their checks expect.

A request's split is a function of its text alone, so no split ever holds another's request,
whatever the seed. What a check expects is worked out by running the company's own right answer
through the company's own program (reference.py); nothing a model wrote is run here.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from appliance.demo.company import Check, Company, TemplateFamily, WordFamily
from appliance.demo.reference import run_reference
from appliance.demo.tables import CompanyError
from appliance.demo.vocabulary import Vocabulary

_SPLITS = {"train": range(60), "target": range(60, 75), "held_out": range(75, 100)}
_TWO_WORDS = 0.25
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# Canonical JSON has no larger whole numbers.
_LARGEST = 2**53 - 1
_PATIENCE = 40
_CONTAINS = """
def run(answer, case):
    return case.lower() in answer.lower()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request with its right answer, before its check is worked out."""

    family: str
    check: Check
    request: str
    gold: str
    public: str = ""
    """The answer if every word had its public meaning; empty where there is none."""
    manual: tuple[tuple[str, str], ...] = ()


def make_tasks(company: Company, split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different tasks of a split, the same for the same seed.

    Splits are ``train``, ``target``, ``held_out``, ``held_out_with_manual`` and ``protected``.
    A request belongs to one split whatever the seed: its digest says which.

    Raises:
        CompanyError: the company has not so many different requests.
    """
    if split == "protected" and company.protected is not None:
        return _protected_items(company, count, seed)
    tasks: dict[str, dict[str, Any]] = {}
    plain = split.removesuffix("_with_manual")
    drafts = _drafts(company, split, random.Random(f"{seed}:{plain}"))
    for _ in range(_PATIENCE):
        batch = {d.request: d for d in (next(drafts) for _ in range(count + 20))}
        fresh = [d for request, d in batch.items() if request not in tasks and _in(split, request)]
        for draft, task in zip(fresh, _finish(company, fresh), strict=True):
            if task is not None:
                tasks[draft.request] = task
        if len(tasks) >= count:
            return list(tasks.values())[:count]
    raise CompanyError(
        f"{company.name} has only {len(tasks)} different {split} requests, {count} were asked for",
        next_step="give its families more words, phrasings or slot values",
    )


def require_right_answer(company: Company, family: str) -> None:
    """Work out one right answer of a family.

    Raises:
        CompanyError: the family's check cannot run the family's own right answer.
    """
    drafts = _drafts(company, "train", random.Random(0), only=family)
    _finish(company, [next(drafts)])


def _drafts(
    company: Company, split: str, draw: random.Random, *, only: str | None = None
) -> Iterator[Draft]:
    families = [f for f in company.families if only in (None, f.name)]
    while True:
        family = draw.choice(families)
        if isinstance(family, TemplateFamily):
            yield _template_draft(family, split, draw)
        elif split == "protected":
            yield _public_draft(company, draw)
        else:
            yield _word_draft(company, family, draw)


def _word_draft(company: Company, family: WordFamily, draw: random.Random) -> Draft:
    vocabulary = _vocabulary(company)
    length = draw.choice(family.steps)
    num_words = min(length, len(family.words), 2 if draw.random() < _TWO_WORDS else 1)
    words = draw.sample(family.words, num_words)
    words += draw.choices(family.beside, k=length - num_words)
    draw.shuffle(words)
    meanings = {**vocabulary.meanings, **company.meanings}
    steps = _with_numbers(company, words, meanings, draw)
    return Draft(
        family=family.name,
        check=family.check,
        request=_request(company, family.frame, steps, ", ", draw),
        gold=_lines(steps, meanings),
        public=_lines(steps, vocabulary.meanings),
    )


def _public_draft(company: Company, draw: random.Random) -> Draft:
    vocabulary = _vocabulary(company)
    length = draw.choices((2, 3, 4), (4, 3, 1))[0]
    generic = sorted(set(vocabulary.meanings) - set(vocabulary.ambiguous))
    words = draw.sample(vocabulary.ambiguous, draw.choice((0, 1)))
    words += draw.choices(generic, k=length - len(words))
    draw.shuffle(words)
    steps = _with_numbers(company, words, vocabulary.meanings, draw)
    return Draft(
        family="public",
        check=company.families[0].check,
        request=_request(company, vocabulary.frame, steps, " then ", draw),
        gold=_lines(steps, vocabulary.meanings),
    )


def _template_draft(family: TemplateFamily, split: str, draw: random.Random) -> Draft:
    phrasings = family.phrasings if split == "train" else family.held_out_phrasings
    values = {name: draw.choice(choices) for name, choices in family.slots.items()}
    manual = family.manual if split in ("train", "held_out_with_manual") else ()
    return Draft(
        family=family.name,
        check=family.check,
        request=_fill(draw.choice(phrasings), {name: v.said for name, v in values.items()}),
        gold=_fill(family.answer, {name: v.meant for name, v in values.items()}),
        manual=manual,
    )


def _finish(company: Company, drafts: list[Draft]) -> list[dict[str, Any] | None]:
    """The tasks; None for one that says nothing about the company, or has no exact result."""
    results = run_reference(
        [(d.check.program, answer, d.check.cases) for d in drafts for answer in (d.gold, d.public)]
    )
    tasks: list[dict[str, Any] | None] = []
    for draft, right, public in zip(drafts, results[::2], results[1::2], strict=True):
        if isinstance(right, str):
            raise CompanyError(
                f"family {draft.family}: its own right answer {draft.gold!r} fails: {right}",
                next_step="mend the meaning, the answer or the check's program",
            )
        if right is None or right == public or _too_large(right):
            tasks.append(None)
        else:
            tasks.append(_task(company, draft, right))
    return tasks


def _task(company: Company, draft: Draft, expected: list[Any]) -> dict[str, Any]:
    shown = [
        {"role": role, "content": text}
        for turn in draft.manual
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {
        "task": f"{draft.family}-{hashlib.sha256(draft.request.encode()).hexdigest()[:12]}",
        "family": draft.family,
        "messages": [*shown, {"role": "user", "content": draft.request}],
        "check": {
            "kind": "program",
            "program": draft.check.program,
            "cases": list(draft.check.cases),
            "expected": expected,
            "timeout_s": draft.check.timeout_s,
        },
        "gold": draft.gold,
        "max_tokens": company.max_tokens,
        "on_failure": company.on_failure,
    }


def _protected_items(company: Company, count: int, seed: int) -> list[dict[str, Any]]:
    protected = company.protected
    if protected is None:
        raise CompanyError(f"{company.name} has no protected items of its own")
    items = protected.items
    if len(items) < count:
        raise CompanyError(
            f"{company.name} has {len(items)} protected items, {count} were asked for"
        )
    chosen = random.Random(f"{seed}:protected").sample(items, count)
    return [
        {
            "task": f"public-{hashlib.sha256(request.encode()).hexdigest()[:12]}",
            "family": "public",
            "messages": [{"role": "user", "content": request}],
            "check": {
                "kind": "program",
                "program": _CONTAINS,
                "cases": [text],
                "expected": [True],
                "timeout_s": 2.0,
            },
            "gold": text,
            "max_tokens": protected.max_tokens,
        }
        for request, text in chosen
    ]


def _vocabulary(company: Company) -> Vocabulary:
    if company.vocabulary is None:
        raise CompanyError(f"{company.name} is made of templates and has no words")
    return company.vocabulary


def _in(split: str, request: str) -> bool:
    plain = " ".join(request.lower().split())
    bucket = int(hashlib.sha256(plain.encode()).hexdigest()[:8], 16) % 100
    return split == "protected" or bucket in _SPLITS[split.removesuffix("_with_manual")]


def _request(
    company: Company,
    frame: str,
    steps: list[tuple[str, int | None]],
    joiner: str,
    draw: random.Random,
) -> str:
    parts = [word if number is None else f"{word} {number}" for word, number in steps]
    if draw.random() < company.reference_share:
        parts[-1] += f" (ref {''.join(draw.choices(_LETTERS, k=3))})"
    return f"{frame}: {joiner.join(parts)}"


def _with_numbers(
    company: Company, words: list[str], meanings: dict[str, str] | Any, draw: random.Random
) -> list[tuple[str, int | None]]:
    numbers = _vocabulary(company).numbers
    return [(w, draw.choice(numbers) if re.search(r"\bn\b", meanings[w]) else None) for w in words]


def _lines(steps: list[tuple[str, int | None]], meanings: Any) -> str:
    return "\n".join(re.sub(r"\bn\b", str(number), meanings[word]) for word, number in steps)


def _fill(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], text)


def _too_large(results: list[Any]) -> bool:
    return any(isinstance(value, int) and abs(value) > _LARGEST for value in results)
