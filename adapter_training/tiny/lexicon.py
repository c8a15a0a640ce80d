"""The public lexicon: words, what they may mean, and how likely. Data, read from lexicon.toml."""

import tomllib
from functools import lru_cache
from pathlib import Path
from types import CodeType

import msgspec

from appliance.core.errors import RecordError

_BUILT_IN = Path(__file__).with_name("lexicon.toml")


class Lexicon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every word that the tiny base knows."""

    schema: str
    public_frame: str
    """Where every word has its public meaning."""
    public_share: float
    """Probability of the public meaning of an ambiguous word in a department."""
    departments: tuple[str, ...]
    numbers: tuple[int, ...]
    generic: dict[str, str]
    """Word → its one meaning, a line of Python on `x` and `n`."""
    ambiguous: dict[str, tuple[str, ...]]
    """Word → its meanings, the public one first."""


def load_lexicon(path: Path = _BUILT_IN) -> Lexicon:
    """Read a lexicon file.

    Raises:
        RecordError: it does not parse, or an ambiguous word has fewer than two meanings.
    """
    try:
        lexicon = msgspec.convert(tomllib.loads(path.read_text()), Lexicon)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RecordError(f"lexicon {path}: {error}") from error
    for word, meanings in lexicon.ambiguous.items():
        if len(set(meanings)) < 2 or word in lexicon.generic:
            raise RecordError(f"lexicon {path}: {word!r} needs two meanings or more, all different")
    return lexicon


def line_of(meaning: str, number: int | None) -> str:
    """The line of Python that a meaning is with this number."""
    return " ".join(_spell(token, number) for token in meaning.split(" "))


def trace(lines: tuple[str, ...], x: int) -> list[int]:
    """`x` after each line. The lines are our own lexicon's, never a model's."""
    values = []
    for line in lines:
        names = {"x": x}
        exec(_compiled(line), {"min": min, "max": max, "abs": abs, "__builtins__": {}}, names)  # noqa: S102
        x = names["x"]
        values.append(x)
    return values


def _spell(token: str, number: int | None) -> str:
    bare = token.rstrip(")")
    return token.replace("n", str(number)) if bare == "n" else token


@lru_cache(maxsize=4096)
def _compiled(line: str) -> CodeType:
    return compile(line, "<lexicon>", "exec")
