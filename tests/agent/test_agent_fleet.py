"""The fleet as a command, against a gateway over real HTTP."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.agent.command import main

RUN = "def run(answer, case): return eval(answer, {'x': case})"


def task(name: str, factor: int) -> dict[str, Any]:
    return {
        "task": name,
        "family": "multiply",
        "messages": [{"role": "user", "content": f"times {factor}"}],
        "check": {"kind": "program", "program": RUN, "cases": [3], "expected": [3 * factor]},
        "gold": f"x * {factor}",
        "max_tokens": 8,
        "on_failure": "run: failed {got}",
    }


def script(messages: list[dict[str, Any]]) -> str:
    """Even factors at once, factors of three at the second go, others never."""
    factor = int(messages[0]["content"].removeprefix("times "))
    if factor % 2 == 0 or (factor % 3 == 0 and len(messages) > 1):
        return f"x * {factor}"
    return "x" if len(messages) < 4 else "give_up"


TASKS = [task(f"multiply/{n}", n) for n in range(2, 14)]


# Where boxes cannot be had, these tests are still about the fleet.
pytestmark = pytest.mark.filterwarnings("ignore::appliance.sandbox.sandbox.UnsafeSandboxWarning")


class Run:
    def __init__(self, gateway: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._gateway, self._folder, self._capsys = gateway, folder, capsys
        gateway.script = script

    def __call__(
        self, *options: str, tasks: list[Any] = TASKS
    ) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        file, out = self._folder / "tasks.jsonl", self._folder / "results.jsonl"
        file.write_text("".join(json.dumps(t) + "\n" for t in tasks))
        code = main(
            [
                *("fleet", "--tasks", str(file), "--base-url", self._gateway.base_url),
                *("--api-key", "key", "--model", "company-model", "--out", str(out)),
                *("--concurrency", "4", "--json", *options),
            ]
        )
        said = self._capsys.readouterr()
        if code:
            return code, {"stderr": said.err}, []
        results = [json.loads(line) for line in out.read_text().splitlines()]
        return code, json.loads(said.out.splitlines()[-1]), results


@pytest.fixture
def fleet(gateway: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(gateway, tmp_path, capsys)


def outcomes(gateway: Any, target: str) -> dict[str, str]:
    return {
        post["target"][target]: post["outcome"]
        for post in gateway.feedback
        if post["kind"] == "outcome" and target in post["target"]
    }


def test_fleet_counts_what_its_clients_saw(fleet: Run, gateway: Any) -> None:
    code, summary, results = fleet("--attempts", "2")
    # Of 2 … 13: six even, two odd multiples of three, four that give up at the third answer.
    assert code == 0
    assert summary["trajectories"] == len(results) == 24
    assert (summary["ok"], summary["failed"], summary["unknown"]) == (16, 8, 0)
    assert (summary["multi_turn"], summary["gave_up"]) == (12, 8)
    assert summary["requests"] == len(gateway.requests) == 2 * (6 + 2 * 2 + 4 * 3)
    assert summary["failed_requests"] == 0
    assert summary["adapters"] == {gateway.adapter: summary["requests"]}
    assert summary["last_adapter"] == gateway.adapter
    assert summary["sandbox"] in ("BubblewrapSandbox", "UnsafeProcessSandbox")
    assert summary["loop"].startswith("sha256:")
    assert len({r["session"] for r in results}) == 24
    assert {r["attempt"] for r in results} == {0, 1}


def test_feedback_names_the_session_and_every_answer(fleet: Run, gateway: Any) -> None:
    _, summary, results = fleet()
    by_session, by_turn = outcomes(gateway, "session"), outcomes(gateway, "turn_id")
    assert by_session == {r["session"]: r["outcome"] for r in results}
    for result in results:
        *earlier, last = (by_turn[turn] for turn in result["turn_ids"])
        assert last == result["outcome"]
        assert set(earlier) <= {"failed"}
    assert len(by_turn) == summary["requests"]
    assert all(p["tags"]["family"] == "multiply" for p in gateway.feedback)
    assert summary["feedback"] == len(gateway.feedback)
    assert summary["corrections"] == 0


def test_failed_work_is_corrected_at_its_first_answer(fleet: Run, gateway: Any) -> None:
    _, summary, results = fleet("--correction-share", "1")
    corrections = [p for p in gateway.feedback if p["kind"] == "correction"]
    failed = {r["turn_ids"][0]: r for r in results if r["outcome"] == "failed"}
    assert {c["target"]["turn_id"] for c in corrections} == set(failed)
    for correction in corrections:
        result = failed[correction["target"]["turn_id"]]
        assert correction["correction"] == f"x * {result['task'].partition('/')[2]}"
        assert result["corrected"]
    assert summary["corrections"] == 4


def test_corrections_from_a_file(fleet: Run, gateway: Any, tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_text('{"task": "multiply/5", "text": "x*5"}\n{"task": "multiply/2", "text": "no"}\n')
    fleet("--corrections", str(file))
    corrections = [p["correction"] for p in gateway.feedback if p["kind"] == "correction"]
    # multiply/2 was done right, and is "corrected" all the same: that is what the file says.
    assert sorted(corrections) == ["no", "x*5"]


def test_flipped_feedback_is_the_opposite_and_corrects_nothing(fleet: Run, gateway: Any) -> None:
    _, summary, results = fleet("--flip-feedback", "--correction-share", "1")
    opposite = {"ok": "failed", "failed": "ok"}
    assert outcomes(gateway, "session") == {r["session"]: opposite[r["outcome"]] for r in results}
    assert summary["corrections"] == 0
    assert (summary["ok"], summary["failed"]) == (8, 4)


def test_shuffled_feedback_keeps_the_counts_and_nothing_of_the_truth(
    fleet: Run, gateway: Any
) -> None:
    _, summary, results = fleet(
        "--shuffle-feedback", "7", "--correction-share", "1", "--attempts", "4"
    )
    told = outcomes(gateway, "session")
    true = {r["session"]: r["outcome"] for r in results}
    assert told.keys() == true.keys()
    assert sorted(told.values()) == sorted(true.values())
    assert told != true
    by_turn = outcomes(gateway, "turn_id")
    # Last answers are right more often than others, so every answer gets the drawn outcome.
    assert by_turn == {turn: told[r["session"]] for r in results for turn in r["turn_ids"]}
    assert summary["corrections"] == 0
    assert not any(r["corrected"] for r in results)


def test_streams_are_a_share_and_each_request_has_its_times(fleet: Run, gateway: Any) -> None:
    _, summary, results = fleet("--stream", "0.5", "--seed", "1", "--attempts", "3")
    calls = [call for result in results for call in result["calls"]]
    share = sum(call["streamed"] for call in calls) / len(calls)
    assert 0.3 < share < 0.7
    assert summary["streamed"] == sum(bool(r.get("stream")) for r in gateway.requests)
    assert all(time.time() - 60 < c["started_at"] <= c["ended_at"] for c in calls)
    assert summary["failed_requests"] == 0


def test_same_seed_same_requests(fleet: Run, gateway: Any) -> None:
    def asked() -> list[tuple[int, str]]:
        gateway.requests.clear()
        fleet("--seed", "3")
        return sorted((r["seed"], r["messages"][0]["content"]) for r in gateway.requests)

    first = asked()
    assert first == asked()
    assert len(set(first)) == len(first)


def test_goes_on_until_a_file_appears(fleet: Run, gateway: Any, tmp_path: Path) -> None:
    stop = tmp_path / "stop"

    def touch_after_some_work() -> None:
        while len(gateway.requests) < 12:
            time.sleep(0.01)
        stop.touch()

    watcher = threading.Thread(target=touch_after_some_work)
    watcher.start()
    _, summary, _ = fleet("--until-file", str(stop), tasks=TASKS[:1])
    watcher.join()
    assert summary["trajectories"] > 5
    assert fleet("--until-file", str(stop))[1]["trajectories"] == 0


def test_failed_requests_and_feedback_are_counted_not_hidden(fleet: Run, gateway: Any) -> None:
    gateway.script = lambda messages: 503
    gateway.feedback_status = 500
    code, summary, results = fleet()
    assert code == 0
    assert summary["requests"] == summary["failed_requests"] == summary["unknown"] == 12
    assert summary["failed_feedback"] == 12
    assert any("503" in error for error in summary["errors"])
    assert all(r["ended"] == "cut_off" and r["adapter"] == "" for r in results)


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], (), "at least one task"),
        ([{**TASKS[0], "chek": {}}], (), "line 1.*unknown field `chek`"),
        ([{**TASKS[0], "check": {"kind": "program"}}], (), "line 1.*missing required field"),
        ([TASKS[0], {**TASKS[1], "messages": []}], (), "line 2"),
        (TASKS, ("--tasks", "/nowhere"), "cannot read tasks"),
        (TASKS, ("--corrections", "/nowhere"), "cannot read corrections"),
        (TASKS, ("--stream", "2"), "--stream must be from 0 to 1"),
        (TASKS, ("--max-answers", "0"), "--max-answers must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_message(
    fleet: Run, gateway: Any, tasks: list[Any], options: tuple[str, ...], message: str
) -> None:
    code, said, _ = fleet(*options, tasks=tasks)
    assert code == 2
    assert said["stderr"].startswith("espalier: ")
    assert re.search(message, said["stderr"])
    assert gateway.requests == []
