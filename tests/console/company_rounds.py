"""Past rounds of a made-up company: datasets, adapters, scorecards, releases, audit."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.rounds import Order
from appliance.control.steps import Ground
from appliance.core.adapters import CONFIG, RECORD, WEIGHTS
from appliance.core.decisions import Approval, Release
from appliance.core.digests import Digest, digest_bytes, digest_json
from appliance.core.records import (
    Adapter,
    ArrayRef,
    Dataset,
    Example,
    Exclusion,
    Scorecard,
    SuiteResult,
    encode,
)
from appliance.core.tables import (
    adapters,
    approvals,
    audit,
    dataset_members,
    datasets,
    releases,
    rounds,
)
from tests.console.company_law import SUITES
from tests.console.company_words import FAMILIES, REASONS, nasty
from tests.console.company_work import name_of

ENDS = ("released", "released", "refused", "inconclusive", "rejected", "failed", "cancelled")
_STEP_S = 40 * 60
_STEPS = ("create", "collecting", "curating", "training", "evaluating", "awaiting_approval")


class Past:
    """What was made so far; each `round_` adds one."""

    def __init__(
        self, ground: Ground, base: Digest, in_force: dict[str, Digest], *, alias: str,
        noise: random.Random,
    ) -> None:  # fmt: skip
        self._ground, self._base, self._in_force = ground, base, in_force
        self._alias, self._noise = alias, noise
        # All have the same: the law has not changed since.
        self.order = Order(
            recipe=in_force["recipe/recipe"], gates=in_force["gates/gates"], idle_s=900.0,
            suites={n[6:]: d for n, d in in_force.items() if n.startswith("suite/")},
        )  # fmt: skip
        self.champion: Digest | None = None
        self.served: list[Digest | None] = [None]
        self._rows: dict[sa.Table, list[dict[str, Any]]] = {
            table: []
            for table in (rounds, datasets, dataset_members, adapters, approvals, releases, audit)
        }
        self._objects: list[bytes] = []

    def add(self, number: int, state: str, members: Sequence[int], *, at: float) -> dict[str, Any]:
        """A round, all that it made, and what people decided."""
        dataset = self.dataset(number, members, at=at)
        adapter = self.adapter(number, dataset, at=at)
        card = self.scorecard(number, adapter)
        return self.round_(number, state, dataset, adapter, card, at=at)

    def round_(
        self, number: int, state: str, dataset: Digest, adapter: Digest, card: Digest, *, at: float
    ) -> dict[str, Any]:
        """The row of a round, its audit entries, its release."""
        early = state in ("failed", "cancelled")
        row = {
            "round": number,
            "state": state,
            "verdict": None if state == "awaiting_approval" else state,
            "reason": _why(state, number),
            "authors": msgspec.json.encode(["olga"] if number % 3 else ["ada", "olga"]).decode(),
            "order": msgspec.json.encode(self.order).decode(),
            "champion": self.champion,
            "dataset": dataset,
            "adapter": None if early else adapter,
            "scorecard": None if early else card,
            "lease_until": 0.0,
            "fencing": 0,
            "created_at": at,
            "changed_at": at + _STEP_S * 0.9,
        }
        self._rows[rounds].append(row)
        for place, step in enumerate(_STEPS[: 4 if early else 6]):
            self.note("espalier", f"round.{step}", str(number), at + place * 300, reason="")
        if state == "released":
            self._release(number, adapter, card, at=at + _STEP_S * 0.9)
        if state != "awaiting_approval":
            self.note("espalier", f"round.{state}", str(number), row["changed_at"], reason="")
        return row

    def dataset(self, number: int, members: Sequence[int], *, at: float) -> Digest:
        """A dataset that looked at these trajectories and took three of four."""
        ids = ArrayRef(digest_of_bytes=digest_bytes(b"ids"), dtype="int32", count=64)
        mask = ArrayRef(digest_of_bytes=digest_bytes(b"mask"), dtype="uint8", count=64)
        taken = [n for n in members if n % 4]
        kind = {0: "correction"}
        examples = [
            Example(
                trajectory_id=name_of(n), version=1, node=0,
                kind=kind.get(n % 10, "success"),  # type: ignore[arg-type] # one of them
                tier="gold", family=FAMILIES[n % len(FAMILIES)], task=f"desk/{n % 500}",
                reward=1.0, ids=ids, mask=mask, logprobs=None, adapter=None,
            )
            for n in taken
        ]  # fmt: skip
        left_out = {n: REASONS[n // 4 % len(REASONS)] for n in members if not n % 4}
        corrected = sum(one.kind == "correction" for one in examples)
        counts = {
            "examples": len(examples), "tokens": 64 * len(examples),
            "trained_tokens": 20 * len(examples), "rewritten_prompts": 0,
            "trajectories": len(members), "kind:correction": corrected,
            "kind:success": len(examples) - corrected, "tier:gold": len(examples),
        }  # fmt: skip
        for reason in left_out.values():
            counts[f"excluded:{reason}"] = counts.get(f"excluded:{reason}", 0) + 1
        made = Dataset(
            base=self._base,
            template=digest_bytes(b"template"),
            recipe=self._in_force["recipe/recipe"],
            label="internal",
            trajectories=tuple(sorted((name_of(n), 1) for n in members)),
            examples=tuple(examples),
            exclusions=tuple(
                Exclusion(reason=why, subject=name_of(n)) for n, why in left_out.items()
            ),
            counts=counts,
        )
        digest = self._put(msgspec.json.encode(made, order="sorted"))
        held = {"digest": digest, "object": digest, "held_out": None, "round": number}
        self._rows[datasets].append({**held, "created_at": at})
        self._rows[dataset_members] += [
            {
                "dataset": digest, "trajectory_id": name_of(n), "version": 1,
                "num_examples": int(bool(n % 4)), "num_corrections": int(n % 4 and n % 10 == 0),
                "excluded": left_out.get(n, ""),
            }
            for n in members
        ]  # fmt: skip
        return digest

    def adapter(self, number: int, dataset: Digest, *, at: float, again: int = 0) -> Digest:
        """An adapter grown from the champion, with its files."""
        weights = b"weights %d.%d" % (number, again)
        files = {WEIGHTS: digest_bytes(weights), CONFIG: digest_bytes(b"{}")}
        content = digest_json({"files": files, "base": self._base})
        record = Adapter(
            content=content, base=self._base, parent=self.champion, dataset=dataset,
            recipe=digest_bytes(b"recipe"), rank=8, alpha=16,
            target_modules=("q_proj", "k_proj", "v_proj", "o_proj"), seed=number, num_threads=1,
            versions={"torch": "2.13.0", "peft": "0.21.2"}, probe=digest_bytes(b"probe"),
            metrics={"loss": 0.4, "tokens": 60_000.0 + number},
        )  # fmt: skip
        folder = self._ground.home.adapter(content)
        folder.mkdir(exist_ok=True)
        for name, data in ((WEIGHTS, weights), (CONFIG, b"{}"), (RECORD, encode(record))):
            (folder / name).write_bytes(data)
        row = {
            "content": content, "number": 2 * number + again, "base": self._base,
            "parent": self.champion, "dataset": dataset, "label": "internal",
            "record": encode(record).decode(), "created_at": at + 1200,
        }  # fmt: skip
        self._rows[adapters].append(row)
        return content

    def scorecard(self, number: int, adapter: Digest) -> Digest:
        """A past round's scorecard, without its answers."""
        results = tuple(
            _result(name, kind, self._in_force[f"suite/{name}"], self._noise)
            for name, kind in SUITES.items()
        )
        card = Scorecard(
            candidate=adapter, champion=self.champion, base=self._base, suites=results,
            seed=number, outputs=None,
        )  # fmt: skip
        return self._put(encode(card))

    def decide(
        self, number: int, approver: str, decision: str, adapter: Digest, card: Digest,
        comment: str, *, at: float,
    ) -> Digest:  # fmt: skip
        """Somebody's decision."""
        one = Approval(
            round=number, adapter=adapter, scorecard=card, approver=approver,
            order=self.order.digest, decision=decision,  # type: ignore[arg-type] # one of 3
            comment=comment, at=at,
        )  # fmt: skip
        row = {
            "digest": one.digest, "round": number, "adapter": adapter, "approver": approver,
            "record": encode(one).decode(),
        }  # fmt: skip
        self._rows[approvals].append(row)
        self.note(approver, f"round.{decision}", str(number), at, comment=comment)
        return one.digest

    def note(self, actor: str, act: str, subject: str, at: float, **detail: Any) -> None:
        """An audit entry; they are chained when they are written."""
        row = {"actor": actor, "act": act, "subject": subject, "at": at, "detail": detail}
        self._rows[audit].append(row)

    def write(self) -> None:
        """Everything, to the store and the database."""
        self._ground.store.put_many(self._objects)
        entries = self._rows.pop(audit)
        with self._ground.database.write() as connection:
            for table, rows in self._rows.items():
                connection.execute(sa.insert(table), rows)
            last = connection.execute(
                sa.select(audit.c.sequence, audit.c.chain).order_by(audit.c.sequence.desc())
            ).first()
            assert last is not None
            connection.execute(sa.insert(audit), _chained(entries, last.sequence, last.chain))

    def _put(self, data: bytes) -> Digest:
        self._objects.append(data)
        return digest_bytes(data)

    def _release(self, number: int, adapter: Digest, card: Digest, *, at: float) -> None:
        cast = tuple(
            self.decide(number, name, "approve", adapter, card, "better at freight", at=at - 60)
            for name in ("bela", "carl")
        )
        self._move("release", adapter, cast, "espalier", at=at)
        if number % 14 == 0:
            self._move("rollback", self.served[-2], (), "olga", at=at + 200)
            detail = {"alias": self._alias, "generation": len(self.served) - 1}
            comment = f"wrong freight {nasty(number)}"
            self.note("olga", "alias.rollback", self._alias, at + 200, comment=comment, **detail)

    def _move(
        self, reason: str, to: Digest | None, cast: tuple[Digest, ...], actor: str, *, at: float
    ) -> None:
        entry = Release(
            alias=self._alias, generation=len(self.served), adapter=to, previous=self.champion,
            reason=reason, approvals=cast, actor=actor, at=at,  # type: ignore[arg-type]
        )  # fmt: skip
        row = {name: getattr(entry, name) for name in ("alias", "generation", "adapter")}
        self._rows[releases].append(
            {
                **row, "previous": entry.previous, "reason": reason, "at": at,
                "record": encode(entry).decode(),
            }
        )  # fmt: skip
        self.champion = to
        self.served.append(to)


def _chained(entries: list[dict[str, Any]], sequence: int, chain: str) -> list[dict[str, Any]]:
    rows = []
    for number, entry in enumerate(entries, sequence + 1):
        body = {"sequence": number, **entry}
        chain = digest_json({"entry": body, "previous": chain})
        detail = msgspec.json.encode(entry["detail"]).decode()
        rows.append({**body, "detail": detail, "chain": chain})
    return rows


def _why(state: str, number: int) -> str:
    return {
        "released": "the target improves: met",
        "refused": "what it could do, it still can: harm on arithmetic (delta -0.093, n 120)",
        "inconclusive": "the target improves: not met on freight (lower_95 -0.011)",
        "rejected": f"bela: {nasty(number)}",
        "failed": "nothing to train on: 84 no_outcome, 16 duplicate",
        "cancelled": "cancelled by olga: the wrong week",
    }.get(state, "every required check is met: the target improves")


def _result(name: str, kind: str, digest: Digest, noise: random.Random) -> SuiteResult:
    champion, gained, lost = noise.randint(60, 90), noise.randint(4, 20), noise.randint(0, 6)
    if kind == "protected":
        gained, lost = lost, lost
    delta = (gained - lost) / 120
    return SuiteResult(
        suite=name, suite_digest=digest, kind=kind, num_items=120,  # type: ignore[arg-type]
        champion_passed=champion, candidate_passed=champion + gained - lost, gained=gained,
        lost=lost, void=1, mcnemar_p=0.01, delta=delta, lower_95=delta - 0.04,
        upper_95=delta + 0.04, smallest_effect=0.05,
        by_family=dict.fromkeys(FAMILIES, (24, champion // 5, (champion + gained - lost) // 5)),
    )  # fmt: skip
