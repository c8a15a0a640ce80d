"""Labels of data: a level and compartments. They only flow up.

A label is written ``internal`` or ``secret/finance+legal``. One label flows to another when its
level is not higher and its compartments are all in the other's.
"""

from collections.abc import Iterable

import msgspec

from appliance.core.errors import PolicyError

LEVELS = ("public", "internal", "confidential", "secret")


class Label(msgspec.Struct, frozen=True):
    """A point of the lattice."""

    level: int
    compartments: frozenset[str] = frozenset()

    def __str__(self) -> str:
        name = LEVELS[self.level]
        return f"{name}/{'+'.join(sorted(self.compartments))}" if self.compartments else name


def parse_label(text: str) -> Label:
    """The label that `text` spells.

    Raises:
        PolicyError: an unknown level, or an empty compartment.
    """
    name, slash, rest = text.partition("/")
    compartments = frozenset(rest.split("+")) if slash else frozenset()
    if name not in LEVELS or "" in compartments:
        raise PolicyError(
            f"not a label: {text!r}",
            next_step=f"write one of {', '.join(LEVELS)}, then perhaps /finance+legal",
        )
    return Label(LEVELS.index(name), compartments)


def flows_to(low: str, high: str) -> bool:
    """Whether data with label `low` may go where label `high` is allowed."""
    source, sink = parse_label(low), parse_label(high)
    return source.level <= sink.level and source.compartments <= sink.compartments


def join(labels: Iterable[str]) -> str:
    """The lowest label that all of them flow to.

    Raises:
        PolicyError: no labels; what is made of nothing has no label.
    """
    parsed = [parse_label(label) for label in labels]
    if not parsed:
        raise PolicyError("cannot join no labels")
    level = max(label.level for label in parsed)
    return str(Label(level, frozenset().union(*(label.compartments for label in parsed))))
