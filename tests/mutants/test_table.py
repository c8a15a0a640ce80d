"""The table of mutants stays in step with the code; `make mutants` runs them."""

import re
from pathlib import Path

import pytest

from tests.mutants.table import Mutant, MutantError, load

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", load(), ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_applied_and_its_test_is_there(mutant: Mutant) -> None:
    text = (_ROOT / mutant.file).read_text()
    assert mutant.apply(text) != text
    path, _, name = mutant.test.partition("::")
    assert re.search(
        rf"^(async )?def {re.escape(name)}\(", (_ROOT / path).read_text(), re.MULTILINE
    )


def test_there_is_one_for_each_guard() -> None:
    assert len({mutant.name for mutant in load()}) == 19


@pytest.mark.parametrize(
    ("find", "replace", "text"),
    [("a", "b", "nothing"), ("a", "b", "a a"), ("", "b", "a"), ("a", "a", "a")],
    ids=["absent", "twice", "empty", "no change"],
)
def test_a_mutation_that_would_change_nothing_counts_as_survived(
    find: str, replace: str, text: str
) -> None:
    mutant = Mutant(name="x", guards="x", file="x", find=find, replace=replace, test="x")
    with pytest.raises(MutantError, match="expected once"):
        mutant.apply(text)
