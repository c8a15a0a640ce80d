"""A company as data: its families of tasks, its words and what they mean to it, its checks.

A company is of one of two kinds. `words`: a request is a list of steps, "levy 4, add 3", and an
answer one line of Python per step (for the tiny base, which knows the words already). `templates`:
a request is a phrasing with slots, and the agents have a manual of few-shot turns (for a base that
can read). It is read in company_file.py; tasks are made from it in tasks.py.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.demo.vocabulary import Vocabulary


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


def prompt_digest(messages: list[dict[str, Any]]) -> str:
    """Digest of a request: the last user message, its white space and case aside.

    The manual before it is not part of it, so a request is known again with and without.
    """
    text = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    plain = " ".join(text.lower().split())
    return "sha256:" + hashlib.sha256(plain.encode()).hexdigest()
