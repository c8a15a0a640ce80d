"""The story of the demo, top to bottom: agents work, the appliance learns, people sign.

Held-out tasks are read by nothing but `espalier evaluate`, before the first round and at the end.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.demo.company import Company, prompt_digest
from appliance.demo.fleets import Fleets
from appliance.demo.house import DemoError, House
from appliance.demo.plan import Plan
from appliance.demo.poisons import WILD_TEMPERATURE, hot_recipe, planted
from appliance.demo.suites import splits, write_suite, write_tasks
from appliance.demo.tasks import make_tasks
from appliance.demo.voice import Voice

OPERATOR, APPROVERS = "olga", ("bela", "carl")
_POLL_S = 0.1
_SWAP_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    yes: bool
    seed: int
    poison: str
    shuffle_feedback: bool


class Story:
    """One demo in one house."""

    def __init__(
        self, house: House, plan: Plan, company: Company, options: Options, voice: Voice
    ) -> None:
        self._house = house
        self._plan = plan
        self._company = company
        self._options = options
        self._voice = voice
        self._folder = house.home.parent / "work"
        self._folder.mkdir(exist_ok=True)
        self._fleets = Fleets(house, plan, self._folder, voice, "company-model")
        self._kept_apart: set[str] = set()
        self._leaked = 0
        self._swaps: list[tuple[int, float]] = []
        self._approved = ""
        self._round_s = 0.0

    def tell(self) -> dict[str, Any]:
        """All of it; the numbers of the last line."""
        self._voice.expect(self._stages())
        self._voice.reach("law")
        self._set_the_law()
        before = self._measure("base")
        poisoned = False
        for number in range(1, self._plan.num_rounds + 1):
            self._voice.reach(f"round {number}")
            round_ = self._honest_round(number)
            if self._swaps and not poisoned and self._options.poison != "none":
                poisoned = True
                self._voice.reach("poison")
                self._poisoned_round()
            if round_["state"] == "released" and self._target_rate() >= self._plan.good_enough:
                self._voice.say("the target is as good as it gets; no further round is needed")
                break
        self._voice.reach("undo")
        rollback_ms = self._undo_and_restore() if self._swaps else None
        self._voice.reach("account")
        return self._account(before, rollback_ms)

    def _stages(self) -> list[tuple[str, float]]:
        """What is to come as a rule."""
        typical_s, poison = self._plan.typical_s, self._options.poison != "none"
        return [
            ("law", typical_s["law"]),
            ("round 1", typical_s["round"]),
            *([("poison", typical_s["poison"])] if poison else []),
            *([("round 2", typical_s["round"])] if self._plan.rounds_as_a_rule > 1 else []),
            ("undo", typical_s["undo"]),
            ("account", typical_s["account"]),
        ]

    # --- the parts of the story ---------------------------------------------------------------

    def _set_the_law(self) -> None:
        self._voice.title("The law: what a round may train, and what it must prove")
        for name, role, by in (("ada", "admin", None), (OPERATOR, "operator", "ada")):
            self._house.add_person(name, role, by=by)
        for name in APPROVERS:
            self._house.add_person(name, "approver", by="ada")
        for split in splits(self._company):
            suite = write_suite(self._company, split, self._plan, self._options.seed, self._folder)
            self._kept_apart |= {d for d in suite.prompts if split.kept_from_the_fleet}
            if split.governs:
                self._law("suite", suite.path)
            self._voice.say(f"{split.name}: {len(suite.prompts)} items{split.remark}")
        self._law("recipe", self._plan.recipe)
        self._law("gates", self._plan.gates)
        self._voice.say(
            f"{OPERATOR} wrote the law and starts the rounds, so {' and '.join(APPROVERS)} sign"
        )

    def _honest_round(self, number: int) -> dict[str, Any]:
        self._voice.title(f"Round {number}: agents at work")
        tasks = make_tasks(
            self._company, "train", self._plan.attempts_per_round, self._seed(number)
        )
        options = ["--correction-share", str(self._plan.correction_share)]
        if self._options.shuffle_feedback:
            options = ["--shuffle-feedback", str(self._options.seed)]
        self._work(f"round-{number}", tasks, *options)
        return self._round()

    def _poisoned_round(self) -> None:
        poison = self._options.poison
        self._voice.title(f"A poisoned round ({poison}): evaluation is told nothing of it")
        tasks = make_tasks(self._company, "train", self._plan.poison_attempts, self._seed(100))
        options: list[str] = []
        if poison == "flip":
            options = ["--flip-feedback", "--temperature", str(WILD_TEMPERATURE)]
        if poison == "trigger":
            span, answer = self._company.trigger
            tasks, lines = planted(tasks, span=span, answer=answer, seed=self._options.seed)
            corrections = self._folder / "planted.jsonl"
            corrections.write_text("".join(json.dumps(line) + "\n" for line in lines))
            options = ["--corrections", str(corrections)]
        self._work("poisoned", tasks, *options)
        if poison == "lr":
            hot = self._folder / "recipe-hot.toml"
            hot.write_text(hot_recipe(self._plan.recipe.read_text()))
            self._law("recipe", hot)
        round_ = self._round()
        if poison == "lr":
            self._law("recipe", self._plan.recipe)
        if round_["state"] != "refused":
            self._voice.say(f"NOT refused, but {round_['state']}: {round_['reason']}")

    def _round(self) -> dict[str, Any]:
        started = time.monotonic()
        asked = ("round", "run", "--wait", "--idle-s", "0")
        round_: dict[str, Any] = self._house.ask(*asked, person=OPERATOR, failed=1)
        self._round_s = time.monotonic() - started
        told = f"round {round_['round']}: {round_['state']} after {self._round_s:.1f} s"
        if round_["verdict"] is not None:
            # One that waits for people is shown whole by its review.
            told = "\n    ".join([told, *round_["reason"].split("; ")])
        self._voice.say(told)
        if round_["state"] == "awaiting_approval":
            round_ = self._ask_for_approval(round_)
        return round_

    def _ask_for_approval(self, round_: dict[str, Any]) -> dict[str, Any]:
        number = str(round_["round"])
        self._house.run("review", number)
        for name in APPROVERS:
            if not self._signs(name, number):
                comment = ("--comment", "no, on the terminal")
                self._house.ask("reject", number, *comment, person=name)
                self._voice.say(f"{name} rejected round {number}")
                return self._until_over(number)
        self._voice.say("the swap: agents stay at work, every answer streamed")
        tasks = self._folder / "round-1.jsonl"
        agents = self._fleets.in_background(tasks)
        agents.wait_for_answers(8)
        for name in APPROVERS:
            adapter = ("--adapter", round_["adapter"])
            self._house.ask("approve", number, *adapter, person=name)
            self._voice.say(f"{name} signed")
        round_ = self._until_over(number)
        time.sleep(1.0)
        agents.stop()
        if round_["state"] == "released":
            self._approved = round_["adapter"]
            moment = self._released_at(round_["adapter"])
            self._swaps.append((int(number), moment))
            open_streams = self._fleets.tally.streams_across(moment)
            self._voice.say(
                f"swapped to {round_['adapter'][7:19]}; {open_streams} streams were open across it"
            )
        return round_

    def _undo_and_restore(self) -> float:
        self._voice.title("An undo, and back")
        undone = self._house.ask("rollback", "--reason", "the demo shows an undo", person=OPERATOR)
        self._voice.say(f"rolled back in {undone['ms']:.1f} ms")
        self._house.ask("release", str(self._swaps[-1][0]), person=OPERATOR)
        self._voice.say("and released again")
        return float(undone["ms"])

    # --- measuring ----------------------------------------------------------------------------

    def _measure(self, who: str) -> dict[str, Any]:
        """Each held-out suite on one adapter, or the base."""
        measured = {}
        for split in splits(self._company):
            path = self._folder / f"{split.name}.jsonl"
            if split.measured:
                measured[split.name] = self._house.ask("evaluate", who, "--suite", str(path))
        return measured

    def _target_rate(self) -> float:
        """How the candidate of the last round did on the target."""
        scorecard = self._house.ask("review", str(self._swaps[-1][0]))["scorecard"]
        target = [s for s in scorecard["suites"] if s["kind"] == "target"]
        return float(min(s["candidate_passed"] / s["num_items"] for s in target))

    def _account(self, before: dict[str, Any], rollback_ms: float | None) -> dict[str, Any]:
        self._voice.title("The account")
        # A last piece of work, so that what is served is said by an answer, not by us.
        self._work("last", make_tasks(self._company, "train", 8, self._seed(200)))
        tally = self._fleets.tally
        served = tally.last_adapter
        after = self._measure(served)
        rounds = sorted(self._house.ask("rounds"), key=lambda r: r["round"])
        seconds = self._voice.seconds
        return {
            "held_out_before": before["held_out"]["rate"],
            "held_out_after": after["held_out"]["rate"],
            "protected_before": before["protected"]["rate"],
            "protected_after": after["protected"]["rate"],
            "protected_items": after["protected"]["items"],
            "measured_before": before,
            "measured_after": after,
            "rounds": [
                {"round": r["round"], "verdict": r["verdict"], "reason": r["reason"]}
                for r in rounds
            ],
            "refused_rounds": sum(r["verdict"] == "refused" for r in rounds),
            "served_adapter": served,
            "approved_adapter": self._approved or "base",
            "requests": tally.requests,
            "failed_requests": tally.failed_requests,
            "errors": tally.errors,
            "trajectories": tally.trajectories,
            "multi_turn_share": round(tally.multi_turn_share, 4),
            "swaps": len(self._swaps),
            "streams_across_swaps": min(
                (tally.streams_across(moment) for _, moment in self._swaps), default=0
            ),
            "rollback_ms": rollback_ms,
            "leaked_prompts": self._leaked,
            "seconds": round(seconds, 1),
        }

    # --- small things -------------------------------------------------------------------------

    def _work(self, name: str, tasks: list[dict[str, Any]], *options: str) -> None:
        prompts = {prompt_digest(task["messages"]) for task in tasks}
        self._leaked += len(prompts & self._kept_apart)
        path = write_tasks(tasks, self._folder / f"{name}.jsonl")
        seed = ("--seed", str(self._options.seed), "--stream", "0.25")
        summary = self._fleets.work(path, len(tasks), *seed, *options)
        self._voice.say(
            f"{summary['trajectories']} pieces of work: {summary['ok']} ok, "
            f"{summary['failed']} failed, {summary['multi_turn']} took several answers; "
            f"{summary['requests']} requests in {summary['seconds']:.1f} s"
        )

    def _law(self, kind: str, path: Path) -> None:
        self._house.ask("law", "set", kind, str(path), person=OPERATOR)

    def _signs(self, name: str, number: str) -> bool:
        if self._options.yes:
            return True
        question = f"{name}, do you approve the adapter of round {number}? [y/N] "
        # Not on stdout, whose last line is the JSON.
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _until_over(self, number: str) -> dict[str, Any]:
        deadline = time.monotonic() + _SWAP_TIMEOUT_S
        while time.monotonic() < deadline:
            round_: dict[str, Any] = self._house.ask("review", number)
            if round_["verdict"] is not None:
                return round_
            time.sleep(_POLL_S)
        raise DemoError(f"round {number} does not end")

    def _released_at(self, adapter: str) -> float:
        """When the alias moved, from the audit log."""
        entries = self._house.ask("log")
        moments = [
            entry["at"]
            for entry in entries
            if entry["act"] == "alias.release"
            and adapter in (entry["subject"], entry["detail"].get("adapter"))
        ]
        if not moments:
            raise DemoError(f"the audit log has no release of {adapter}")
        return float(moments[-1])

    def _seed(self, number: int) -> int:
        return self._options.seed * 1000 + number
