"""Fleets of agents: started by command, counted by what their own clients saw."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.demo.house import DemoError, House, last_json
from appliance.demo.plan import Plan
from appliance.demo.voice import Voice

_TICK_S = 0.5


@dataclass(slots=True)
class Tally:
    """Everything that the clients counted, over all fleets of a demo."""

    requests: int = 0
    failed_requests: int = 0
    trajectories: int = 0
    multi_turn: int = 0
    streams: list[tuple[float, float]] = field(default_factory=list)
    """(start, end) of every streamed request, UTC seconds."""
    last_adapter: str = ""
    """What the last answer of all said."""
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, summary: dict[str, Any], results: Path) -> None:
        """Take in a fleet that has ended."""
        self.requests += summary["requests"]
        self.failed_requests += summary["failed_requests"] + summary["failed_feedback"]
        self.trajectories += summary["trajectories"]
        self.multi_turn += summary["multi_turn"]
        self.last_adapter = summary["last_adapter"] or self.last_adapter
        for error, count in summary["errors"].items():
            self.errors[error] = self.errors.get(error, 0) + count
        for line in results.read_text().splitlines():
            self.streams += [
                (call["started_at"], call["ended_at"])
                for call in json.loads(line)["calls"]
                if call["streamed"] and not call["failed"]
            ]

    def streams_across(self, moment: float) -> int:
        """Streams that were open at `moment`."""
        return sum(start < moment < end for start, end in self.streams)

    @property
    def multi_turn_share(self) -> float:
        """Share of trajectories with two answers or more."""
        return self.multi_turn / max(1, self.trajectories)


class Fleets:
    """Starts fleets on task files and keeps the tally."""

    def __init__(self, house: House, plan: Plan, folder: Path, voice: Voice, alias: str) -> None:
        self.tally = Tally()
        self._house = house
        self._plan = plan
        self._folder = folder
        self._voice = voice
        self._alias = alias
        self._number = 0

    def work(self, tasks: Path, num_tasks: int, *options: str) -> dict[str, Any]:
        """One attempt at each task of a file, with progress; the fleet's own summary."""
        process, results, output = self._start(tasks, *options)
        while process.poll() is None:
            done = results.read_bytes().count(b"\n") if results.exists() else 0
            self._voice.progress(f"{done} of {num_tasks} pieces of work done")
            time.sleep(_TICK_S)
        return self._take_in(process, results, output)

    def in_background(self, tasks: Path) -> "Background":
        """Agents that go on until told to stop, every request streamed."""
        until = self._folder / f"stop-{self._number + 1}"
        process, results, output = self._start(
            tasks, "--until-file", str(until), "--stream", "1.0", concurrency=8
        )
        return Background(self, process, results, output, until)

    def _start(
        self, tasks: Path, *options: str, concurrency: int | None = None
    ) -> "tuple[subprocess.Popen[bytes], Path, Path]":
        self._number += 1
        results = self._folder / f"fleet-{self._number}.jsonl"
        output = self._folder / f"fleet-{self._number}.log"
        process = self._house.start(
            "agent",
            "fleet",
            "--tasks",
            str(tasks),
            "--model",
            self._alias,
            "--concurrency",
            str(concurrency or self._plan.concurrency),
            "--max-answers",
            str(self._plan.max_answers),
            "--temperature",
            str(self._plan.temperature),
            "--out",
            str(results),
            *options,
            output=output,
        )
        return process, results, output

    def _take_in(
        self, process: "subprocess.Popen[bytes]", results: Path, output: Path
    ) -> dict[str, Any]:
        if process.wait() != 0:
            raise DemoError(
                f"a fleet ended with {process.returncode}: {output.read_text()[-2000:]}"
            )
        summary: dict[str, Any] = last_json(output)
        self.tally.add(summary, results)
        return summary


@dataclass(slots=True)
class Background:
    """A fleet at work while something else happens."""

    _fleets: Fleets
    _process: "subprocess.Popen[bytes]"
    _results: Path
    _output: Path
    _until: Path

    def wait_for_answers(self, num: int, timeout_s: float = 60.0) -> None:
        """Until at least `num` pieces of work are done."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._results.exists() and self._results.read_bytes().count(b"\n") >= num:
                return
            time.sleep(0.1)
        raise DemoError(f"the agents do not get answers: {self._output.read_text()[-2000:]}")

    def stop(self) -> dict[str, Any]:
        """No new work; wait for what is under way."""
        self._until.touch()
        return self._fleets._take_in(self._process, self._results, self._output)
