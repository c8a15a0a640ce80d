"""From outcomes to advantages: a rule over the dataset's examples, no torch.

Production logs mostly hold one attempt per task. A single attempt is compared with its task
family's mean; where one policy version tried one task twice or more, with that group's mean.
Failures are damped, because pushing down is what makes such learners unstable.
"""

from collections.abc import Iterable, Sequence

from appliance.core.records import Example

_Attempt = tuple[str, int]
_Group = tuple[str, str | None]


def advantages(examples: Sequence[Example], *, negative_weight: float) -> list[float]:
    """Each example's reward minus its baseline; negative ones times `negative_weight`.

    All answers of one trajectory share its reward, and count as one attempt in a baseline.
    """
    attempts = {(e.trajectory_id, e.version): e for e in examples}
    families: dict[str, dict[_Attempt, float]] = {}
    groups: dict[_Group, dict[_Attempt, float]] = {}
    for attempt, example in attempts.items():
        families.setdefault(example.family, {})[attempt] = example.reward
        if example.task:
            group = groups.setdefault((example.task, example.adapter), {})
            group[attempt] = example.reward
    values: list[float] = []
    for example in examples:
        group = groups.get((example.task, example.adapter), {})
        rewards = group if len(group) > 1 else families[example.family]
        advantage = example.reward - _mean(rewards.values())
        values.append(advantage if advantage > 0 else advantage * negative_weight)
    return values


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
