"""The error tree: as drawn, and each error explains itself."""

import re

from appliance.core import errors
from appliance.core.errors import AdapterError, EspalierError, UnavailableError


def _drawn() -> dict[str, str]:
    """Class → parent, from the tree at the top of errors.py."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            if depth:
                parents[match[2]] = path[depth - 1]
    return parents


def _real(kind: type[EspalierError] = EspalierError) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            found[one.__name__] = kind.__name__
            found |= _real(one)
    return found


def test_the_tree_is_as_drawn() -> None:
    assert _real() == _drawn()
    assert len(_drawn()) > 10


def test_an_error_gives_the_next_step() -> None:
    error = UnavailableError("the disk is full", next_step="free some space")
    assert str(error) == "the disk is full\n  next: free some space"
    assert str(UnavailableError("the disk is full")) == "the disk is full"


def test_an_adapter_error_carries_its_reason() -> None:
    assert AdapterError("nan", "a weight is NaN").reason == "nan"


def test_every_error_ends_the_command_non_zero() -> None:
    kinds = [getattr(errors, name) for name in _real()]
    assert all(kind.exit_code > 0 for kind in [EspalierError, *kinds])
