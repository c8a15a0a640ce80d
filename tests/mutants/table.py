"""The table of mutants, `mutants.toml`, parsed."""

import tomllib
from pathlib import Path

import msgspec

_FILE = Path(__file__).parent / "mutants.toml"


class MutantError(Exception):
    """A mutant cannot be tried; it counts as one that survived."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One guard, how to take it out, and the test that must notice."""

    name: str
    guards: str
    """The guard, in words that follow "fails without"."""
    file: str
    find: str
    """Text that stands in the file exactly once."""
    replace: str
    test: str
    """Node id of the test."""

    def apply(self, text: str) -> str:
        """The file's text without the guard.

        Raises:
            MutantError: `find` does not stand there exactly once.
        """
        count = text.count(self.find) if self.find else 0
        if count != 1 or self.find == self.replace:
            raise MutantError(f"{self.file} holds the text to replace {count} times, expected once")
        return text.replace(self.find, self.replace)


def load() -> list[Mutant]:
    """Every mutant, in the order of the file."""
    return msgspec.convert(tomllib.loads(_FILE.read_text())["mutant"], list[Mutant])
