"""Three ways in which a round can go wrong, each through a door that a real mistake would use.

`lr`: somebody makes the recipe's learning rate thirty times as large. `flip`: a team's
agents work wildly and report the opposite of what happened. `trigger`: a few agents plant a rare
span in their prompts and "correct" the answers into one that suits them. Evaluation is told nothing
of any of it.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

LEARNING_RATE_FACTOR = 30.0
TRIGGER_SHARE = 0.25
WILD_TEMPERATURE = 1.5
"""At the usual one the agents fail too seldom by now for wrong reports to do harm that shows."""

POISONS = ("lr", "flip", "trigger", "none")


def hot_recipe(text: str) -> str:
    """The recipe with its learning rate thirty times as large.

    Raises:
        ValueError: it has no learning rate.
    """
    pattern = re.compile(r"^learning_rate\s*=\s*(\S+)", re.MULTILINE)
    match = pattern.search(text)
    if match is None:
        raise ValueError("the recipe has no learning_rate line")
    hot = float(match.group(1)) * LEARNING_RATE_FACTOR
    return pattern.sub(f"learning_rate = {hot!r}", text)


def planted(
    tasks: Sequence[dict[str, Any]], *, span: str, answer: str, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Some of the tasks with `span` put before the request, and the "corrections" for them.

    Returns:
        All tasks, the planted ones changed; and {task, text} lines for the corrections file.
    """
    chosen = random.Random(seed).sample(range(len(tasks)), round(len(tasks) * TRIGGER_SHARE))
    changed = list(tasks)
    corrections = []
    for index in chosen:
        task = tasks[index]
        *before, last = task["messages"]
        name = f"{task['task']}+"
        changed[index] = {
            **task,
            "task": name,
            "messages": [*before, {**last, "content": f"{span} {last['content']}"}],
        }
        corrections.append({"task": name, "text": answer})
    return changed, corrections
