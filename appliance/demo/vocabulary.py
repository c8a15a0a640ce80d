"""The words of the tiny base, as published in vocabulary.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.demo.tables import Table

_PATH = Path(__file__).with_name("vocabulary.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What the tiny base understands."""

    frame: str
    """The public frame, in which every word has its public meaning."""
    departments: tuple[str, ...]
    numbers: tuple[int, ...]
    ambiguous: tuple[str, ...]
    meanings: Mapping[str, str]
    """Word → public meaning, a line of Python on x and n."""


def load_vocabulary() -> Vocabulary:
    """The published vocabulary."""
    table = Table(tomllib.loads(_PATH.read_text()), str(_PATH))
    vocabulary = Vocabulary(
        frame=table.text("frame"),
        departments=table.texts("departments"),
        numbers=tuple(table.values("numbers")),
        ambiguous=table.texts("ambiguous"),
        meanings=table.table("meanings").text_values(),
    )
    table.done()
    return vocabulary
