"""A prompt for Talk: what somebody types, perhaps behind a past turn's prompt.

A past prompt that is plain text goes into the form, to be changed there. One with tools, with
calls, or a long one, stays where it is and is named, so that it is replayed exactly as it was.
"""

from typing import Any

import msgspec

from appliance.control.identity import Person
from appliance.control.reading.trajectory import branch_of, tree_of
from appliance.control.steps import Ground
from appliance.core.errors import ForbiddenError
from appliance.core.records import Sampling, Turn
from policies.access import Act
from policies.labels import flows_to

PLAIN_MAX_CHARS = 40_000


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked. With `node`, the messages come behind that turn's prompt."""

    messages: list[dict[str, Any]] = []
    trajectory: str = ""
    version: int | None = None
    node: int | None = None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A past turn, made ready to be asked again."""

    prompt: Prompt
    sampling: Sampling | None


def replay(
    ground: Ground, person: Person, trajectory: str, node: int, version: int | None = None
) -> Replayed:
    """The prompt of a past turn, and how it was sampled then.

    Raises:
        NotFoundError: no such turn that this person may see.
        ForbiddenError: its label is above the endpoint's.
    """
    turn = _turn(ground, person, trajectory, node, version)
    if _is_plain(turn):
        prompt = Prompt(messages=list(turn.messages), trajectory=trajectory)
    else:
        prompt = Prompt(trajectory=trajectory, version=version, node=node)
    return Replayed(prompt=prompt, sampling=turn.sampling)


def whole(
    ground: Ground, person: Person, prompt: Prompt
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All messages of a prompt, and its tools.

    Raises:
        NotFoundError, ForbiddenError: as for `replay`.
    """
    if prompt.node is None:
        return prompt.messages, []
    turn = _turn(ground, person, prompt.trajectory, prompt.node, prompt.version)
    return [*turn.messages, *prompt.messages], list(turn.tools)


def _turn(ground: Ground, person: Person, trajectory: str, node: int, version: int | None) -> Turn:
    person.require(Act.TALK)
    _, tree = tree_of(ground, person, trajectory, version)
    turn = branch_of(tree, node).turn
    label = ground.settings.gateway.label
    # What is said through the endpoint is logged with its label; it must not sink on the way.
    if not flows_to(turn.label, label):
        raise ForbiddenError(
            f"this turn's label, {turn.label}, is above the endpoint's, {label}",
            next_step="read it in the trajectory; it cannot be asked again here",
        )
    return turn


def _is_plain(turn: Turn) -> bool:
    kinds = {("content", "role")}
    messages = [message for message in turn.messages if isinstance(message, dict)]
    return (
        not turn.tools
        and len(messages) == len(turn.messages)
        and {tuple(sorted(message)) for message in messages} <= kinds
        and all(isinstance(message["content"], str) for message in messages)
        and sum(len(message["content"]) for message in messages) <= PLAIN_MAX_CHARS
    )
