"""What is served: release again, roll back, kill. Serving carries it out, and audits it."""

from typing import Any

from appliance.control import local_http
from appliance.control.acting.rounds import Why
from appliance.control.identity import Person
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground, ask_release
from appliance.core.errors import ConflictError
from policies.access import Act
from policies.lifecycle import State


def release_again(ground: Ground, person: Person, number: int, alias: str = "") -> dict[str, Any]:
    """Make the alias, or a team's, mean a released round's adapter.

    Raises:
        ConflictError: the round is no approved release.
    """
    person.require(Act.RELEASE)
    round_ = Rounds(ground.database).get(number)
    if round_.state is not State.RELEASED:
        raise ConflictError(
            f"round {number} is {round_.state}, not an approved release",
            next_step="espalier rounds shows which ones are",
        )
    return ask_release(ground, round_, actor=person.name, alias=alias)


def roll_back(ground: Ground, person: Person, ask: Why, alias: str = "") -> Any:
    """The alias means the adapter before again; a candidate that is tried out is taken away."""
    person.require(Act.ROLLBACK)
    return _ask(ground, "/rollback", person, ask, alias)


def kill(ground: Ground, person: Person, ask: Why, alias: str = "") -> Any:
    """The alias means the base: no adapter serves."""
    person.require(Act.KILL)
    return _ask(ground, "/kill", person, ask, alias)


def _ask(ground: Ground, route: str, person: Person, ask: Why, alias: str) -> Any:
    body = {"actor": person.name, "reason": ask.require(), "alias": alias}
    return local_http.over_socket(ground.home.socket("serving"), "POST", route, body)
