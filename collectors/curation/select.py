"""One dataset out of many trajectories: the same trajectories and recipe give the same bytes."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from appliance.core.objects import ObjectStore
from appliance.core.recipe import LeaveOut, Recipe
from appliance.core.records import (
    ArrayRef,
    Dataset,
    Example,
    Exclusion,
    Feedback,
    Node,
    Trajectory,
)
from appliance.engine.bases import Base
from appliance.engine.template import Template
from collectors.curation.choice import Chosen, choose
from collectors.curation.rows import Dtype, Encoder, LeftOutError, Row, array_ref
from collectors.tiers import BROKEN_OFF
from policies.labels import flows_to, join
from policies.teaching import may_teach

_LOWEST_LABEL = "public"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may go into a dataset, beside what the recipe says."""

    label: str
    """Nothing above it."""
    cap: int
    """Examples from one agent, at most."""
    hold_out_share: float = 0.0
    """Share of the tasks whose successes go into the second dataset instead."""


class Selection:
    """Grows trajectory by trajectory, in the order of their ids."""

    def __init__(
        self, base: Base, template: Template, recipe: Recipe, limits: Limits, objects: ObjectStore
    ) -> None:
        self._base = base
        self._template = template
        self._recipe = recipe
        self._limits = limits
        self._objects = objects
        self._encoder = Encoder(template, objects, base.digest)
        self._considered: list[tuple[str, int]] = []
        self._exclusions: list[Exclusion] = []
        self._train = _Side(max_tokens=min(recipe.max_tokens, base.context_length))
        # Nothing of these is trained on: they are judged by whatever the base can hold.
        self._held_out = _Side(max_tokens=base.context_length)
        self._seen: set[object] = set()
        self._by_agent: Counter[tuple[str, str, str]] = Counter()

    def take(self, trajectory: Trajectory, feedback: Sequence[Feedback]) -> None:
        """Add what this trajectory has to teach."""
        self._considered.append((trajectory.trajectory_id, trajectory.version))
        if not flows_to(trajectory.label, self._limits.label):
            self._leave(trajectory, None, "label")
            return
        if not may_teach(trajectory.who.team, trajectory.who.project):
            self._leave(trajectory, None, "talk")
            return
        recipe = self._recipe
        chosen, left = choose(
            trajectory,
            feedback,
            failures=recipe.loss == "outcome_pg",
            corrections=recipe.corrections,
        )
        for one in left:
            self._leave(trajectory, one.node, one.reason)
        side = self._train
        if is_held_out(trajectory, self._limits.hold_out_share):
            if chosen:
                self._leave(trajectory, None, "held_out")
            side = self._held_out
            chosen = [one for one in chosen if one.kind == "success"]
        self._add(side, trajectory, chosen)

    def datasets(self) -> tuple[Dataset, Dataset]:
        """The dataset to train on, and that of the tasks held out. Stores their arrays."""
        return self._dataset(self._train, self._exclusions), self._dataset(self._held_out, [])

    def _add(self, side: "_Side", trajectory: Trajectory, chosen: Sequence[Chosen]) -> None:
        conversations: list[int] = []
        for one in chosen:
            node = trajectory.nodes[one.node]
            if not node.trainable and one.kind != "correction":
                self._leave(trajectory, one.node, _why_untrainable(node))
            elif one.kind != "correction" and not self._encoder.keeps_ids(node.turn, node.tier):
                if self._recipe.loss == "outcome_pg":
                    other = node.tier == "gold"
                    self._leave(trajectory, one.node, "other_base" if other else "no_logprobs")
                else:
                    conversations.append(one.node)
            else:
                self._row(side, trajectory, one)
        if conversations:
            self._conversation(side, trajectory, conversations)

    def _row(self, side: "_Side", trajectory: Trajectory, one: Chosen) -> None:
        node = trajectory.nodes[one.node]
        parts = self._parts(trajectory, one.node)
        try:
            if one.kind == "correction":
                row = self._encoder.corrected(node.turn, node.tier, one.correction, parts)
            else:
                row = self._encoder.as_sampled(node.turn, parts)
        except LeftOutError as error:
            self._leave(trajectory, one.node, error.reason)
            return
        self._keep(side, trajectory, one, row)

    def _conversation(self, side: "_Side", trajectory: Trajectory, nodes: list[int]) -> None:
        """Answers on one path that have to be encoded: one row for all of them."""
        deepest = max(nodes, key=lambda i: len(trajectory.nodes[i].turn.messages))
        trained = [len(trajectory.nodes[i].turn.messages) for i in nodes]
        turn = trajectory.nodes[deepest].turn
        try:
            row = self._encoder.conversation(turn, trained, self._parts(trajectory, deepest))
        except LeftOutError as error:
            self._leave(trajectory, None, error.reason)
            return
        self._keep(side, trajectory, Chosen(node=deepest, kind="success"), row)

    def _keep(self, side: "_Side", trajectory: Trajectory, one: Chosen, row: Row) -> None:
        if len(row) > side.max_tokens:
            self._leave(trajectory, one.node, "too_long")
            return
        # Under policy gradient each attempt is a sample of its own, even if it says the same.
        if self._recipe.loss == "supervised":
            if row.identity in self._seen:
                self._leave(trajectory, one.node, "duplicate")
                return
            self._seen.add(row.identity)
        who = trajectory.who
        agent = (who.team, who.project, who.agent)
        if self._by_agent[agent] >= self._limits.cap:
            self._leave(trajectory, one.node, "over_cap")
            return
        self._by_agent[agent] += 1
        side.add(trajectory, one, row)

    def _parts(self, trajectory: Trajectory, node: int) -> tuple[LeaveOut, ...]:
        """The parts to leave out of this example: none for the share that keeps them."""
        name = f"{self._recipe.seed}/{trajectory.trajectory_id}/{node}"
        return () if share_of(name) < self._recipe.keep_share else self._recipe.leave_out

    def _leave(self, trajectory: Trajectory, node: int | None, reason: str) -> None:
        subject = trajectory.trajectory_id + ("" if node is None else f"#{node}")
        self._exclusions.append(Exclusion(reason=reason, subject=subject))

    def _dataset(self, side: "_Side", exclusions: Sequence[Exclusion]) -> Dataset:
        self._objects.put_many(side.arrays.values())
        return Dataset(
            base=self._base.digest,
            template=self._template.digest,
            recipe=self._recipe.digest,
            label=join(side.labels) if side.labels else _LOWEST_LABEL,
            trajectories=tuple(sorted(self._considered)),
            examples=tuple(side.examples),
            exclusions=tuple(sorted(exclusions, key=lambda one: (one.subject, one.reason))),
            counts={
                "examples": len(side.examples),
                "tokens": side.num_tokens,
                "trained_tokens": side.num_trained,
                "rewritten_prompts": side.num_rewritten,
                "trajectories": len(self._considered),
                **_counted("excluded", (one.reason for one in exclusions)),
                **_counted("kind", (example.kind for example in side.examples)),
                **_counted("tier", (example.tier for example in side.examples)),
            },
        )


class _Side:
    """The examples of one dataset and their arrays."""

    def __init__(self, *, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.examples: list[Example] = []
        self.arrays: dict[str, bytes] = {}
        self.labels: set[str] = set()
        self.num_tokens = 0
        self.num_trained = 0
        self.num_rewritten = 0

    def add(self, trajectory: Trajectory, one: Chosen, row: Row) -> None:
        turn = trajectory.nodes[one.node].turn
        self.labels.add(trajectory.label)
        self.num_tokens += len(row)
        self.num_trained += sum(row.mask)
        self.num_rewritten += row.rewritten
        self.examples.append(
            Example(
                trajectory_id=trajectory.trajectory_id,
                version=trajectory.version,
                node=one.node,
                kind=one.kind,
                tier=row.tier,
                family=trajectory.family or "",
                task=trajectory.task or trajectory.trajectory_id,
                reward=0.0 if one.kind == "failure" else 1.0,
                ids=self._array(row.ids, "int32"),
                mask=self._array(row.mask, "uint8"),
                logprobs=self._array(row.logprobs, "float32") if row.logprobs else None,
                adapter=turn.adapter,
            )
        )

    def _array(self, data: bytes, dtype: Dtype) -> ArrayRef:
        ref = array_ref(data, dtype)
        self.arrays[ref.digest_of_bytes] = data
        return ref


def is_held_out(trajectory: Trajectory, share: float) -> bool:
    """Whether a trajectory's task is kept out: a function of the task's id and nothing else."""
    return share_of(f"split/{trajectory.task or trajectory.trajectory_id}") < share


def share_of(name: str) -> float:
    """A number in [0, 1) that the name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def _why_untrainable(node: Node) -> str:
    if node.tier == "bronze":
        return "no_text"
    return "broken_off" if node.turn.finish_reason == BROKEN_OFF else "redacted"


def _counted(group: str, names: Iterable[str]) -> dict[str, int]:
    return {f"{group}:{name}": count for name, count in sorted(Counter(names).items())}
