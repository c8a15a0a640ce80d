"""Writing what the company keeps: task files for its agents, suites for its gates."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.demo.company import Company, prompt_digest
from appliance.demo.plan import Plan
from appliance.demo.tasks import make_tasks


@dataclass(frozen=True, slots=True)
class Split:
    """One set of items that is never work."""

    name: str
    kind: str
    governs: bool
    """Whether gates read it."""
    measured: bool
    """Whether the demo shows it before and after."""
    remark: str

    @property
    def kept_from_the_fleet(self) -> bool:
        """Held-out and protected prompts must not reach the agents or a correction."""
        return self.kind != "target"


def splits(company: Company) -> list[Split]:
    """The sets of a company; one whose words the base knows has no manual."""
    return [s for s in _SPLITS if company.kind == "templates" or s.name != "held_out_with_manual"]


_SPLITS = (
    Split("target", "target", True, False, " that the gates read"),
    Split("protected", "protected", True, True, " of what it could do before"),
    Split("held_out", "held_out", False, True, ", read by no gate"),
    Split(
        "held_out_with_manual", "held_out", False, True, ", the same with the manual in the prompt"
    ),
)


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite on disk and the digests of its prompts."""

    path: Path
    prompts: set[str]


def write_tasks(tasks: list[dict[str, Any]], path: Path) -> Path:
    """A task file, one JSON object a line."""
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def write_suite(company: Company, split: Split, plan: Plan, seed: int, folder: Path) -> Suite:
    """A suite file: its name and kind, then one item a line."""
    num = {"target": plan.num_target, "protected": plan.num_protected}.get(
        split.name, plan.num_held_out
    )
    tasks = make_tasks(company, split.name, num, seed)
    path = folder / f"{split.name}.jsonl"
    lines = [{"suite": split.name, "kind": split.kind}]
    lines += [
        {
            "item_id": task["task"],
            "family": task["family"],
            "messages": task["messages"],
            "check": task["check"],
            "max_tokens": task["max_tokens"],
        }
        for task in tasks
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Suite(path, {prompt_digest(task["messages"]) for task in tasks})
