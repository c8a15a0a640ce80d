"""`python -m tests.storm.swaps`: `kill -9` while the alias moves, at moments drawn from a seed.

In each swap (a release or a rollback, in turn) the gateway, which is the release controller too,
is killed while it moves the alias; in some, a replica of vLLM or the engine's front with it. After
each, the alias means the old version or the new one, as the journal says. Clients stream all the
time; at the end every answer that came to its end is scored under the version that it states. The
last line of text is ``200 swaps, 200 gateway kills, 12 replica kills, 0 torn, 0 mixed``; anything
else ends non-zero.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.core import audit
from appliance.core.home import Home
from appliance.engine.bases import Registry
from appliance.engine.wire import Health
from serving import journal
from tests.engine_port.approved import ApprovedHome
from tests.services.tiny import bring_tiny
from tests.services.vllm import bring_vllm

ALIAS = "company-model"
PROMPT = [1, 70, 80, 90, 100, 110, 120, 130]
NUM_NEW = 24
_REPLICAS = 2
_CLIENTS = 3
_LATEST_S = 0.4
"""A release takes 0.05 to 0.4 s here; most kills come early in it."""
_TOLERANCE = 1e-3
_ANSWERS_TIMEOUT_S = 300.0


@dataclass
class Swap:
    """One swap: what was planned, and what was there afterwards."""

    number: int
    kind: str
    moment_s: float
    """From the order to the kill."""
    replica: int | None
    front: bool
    generation: int = 0
    ended: str = ""
    """old or new; torn if neither."""
    back_after_s: float = 0.0


@dataclass
class Answer:
    """An answer that came to its end."""

    version: str
    ids: list[int]
    logprobs: list[float]


def main() -> int:
    """Run the storm; 0 when nothing was torn or mixed."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.swaps", description=__doc__)
    parser.add_argument("--engine", choices=["embedded", "vllm"], default="vllm")
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--replica-kills", type=int, default=12)
    parser.add_argument("--front-kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="espalier-swaps-"))
    result = _storm(options, draw(options), folder)
    harm = result["torn"] or result["mixed"]
    print(
        f"{result['swaps']} swaps, {result['gateway_kills']} gateway kills, "
        f"{result['replica_kills']} replica kills, {result['torn']} torn, {result['mixed']} mixed"
    )
    if options.json:
        print(json.dumps(result))
    if harm:
        print(f"kept: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if harm else 0


def draw(options: argparse.Namespace) -> list[Swap]:
    """The plan: the same for the same seed."""
    noise = random.Random(options.seed)
    numbers = range(options.swaps)
    vllm = options.engine == "vllm"
    replicas = set(noise.sample(numbers, min(options.replica_kills, options.swaps) if vllm else 0))
    fronts = set(noise.sample(numbers, min(options.front_kills, options.swaps)))
    return [
        Swap(
            number=number,
            kind="rollback" if number % 2 else "release",
            moment_s=round(noise.random() ** 2 * _LATEST_S, 4),
            replica=noise.randrange(_REPLICAS) if number in replicas else None,
            front=number in fronts,
        )
        for number in numbers
    ]


def _storm(options: argparse.Namespace, plan: list[Swap], folder: Path) -> dict[str, Any]:
    home = Home(folder / "home")
    shutil.copytree(bring_tiny() / "bases", home.bases)
    settings = {}
    if options.engine == "vllm":
        settings = {
            "ESPALIER__VLLM__PYTHON": str(bring_vllm()),
            "ESPALIER__VLLM__REPLICAS": str(_REPLICAS),
            "ESPALIER__VLLM__CONTEXT_LENGTH": "512",
        }
    served = ApprovedHome(home, Registry(home).get("tiny"), options.engine, settings)
    clients = Clients(served.add_key())
    try:
        adapters = [served.add_adapter(seed) for seed in (1, 2)]
        cast = {adapter: served.add_round(adapter) for adapter in adapters}
        served.start("engine")
        served.start("serving")
        clients.url = served.wait_for(_all_serving)
        served.release(cast[adapters[0]][0], adapters[0], cast[adapters[0]][1])
        clients.start()
        for swap in plan:
            _one(served, swap, adapters, cast, clients)
            print(json.dumps(asdict(swap)), file=sys.stderr, flush=True)
        clients.stop()
        served.wait_for(lambda health: True)
        mixed = _mixed(served, clients.answers)
        history = journal.history(served.database, ALIAS, limit=10 * len(plan))
        with served.database.read() as connection:
            audit.verify(connection)
    finally:
        clients.stop()
        served.stop()
    generations = [entry.generation for entry in history]
    gapless = generations == list(range(len(generations), 0, -1))
    torn = sum(swap.ended == "torn" for swap in plan) + (not gapless)
    return {
        "engine": options.engine,
        "seed": options.seed,
        "swaps": len(plan),
        "gateway_kills": len(plan),
        "replica_kills": sum(swap.replica is not None for swap in plan),
        "front_kills": sum(swap.front for swap in plan),
        "ended": dict(Counter(swap.ended for swap in plan)),
        "torn": torn,
        "mixed": mixed,
        "answers": len(clients.answers),
        "versions_seen": dict(Counter(answer.version for answer in clients.answers)),
        "back_after_s_max": max(swap.back_after_s for swap in plan),
        "journal": [[entry.generation, entry.reason, entry.adapter] for entry in history[::-1]],
        "moments": [asdict(swap) for swap in plan],
    }


def _one(
    served: ApprovedHome,
    swap: Swap,
    adapters: list[str],
    cast: dict[str, tuple[int, list[str]]],
    clients: "Clients",
) -> None:
    """Order one move, kill at the moment, bring back, and look at what the alias means."""
    before = journal.current(served.database, ALIAS)
    assert before is not None
    # A rollback that was cut off leaves a release in force, and the other way round.
    if before.reason == "release" and before.previous is not None and swap.kind == "rollback":
        target = before.previous
    else:
        swap.kind = "release"
        target = adapters[before.adapter == adapters[0]]
    clients.wait_for_answers()
    order = threading.Thread(target=_order, args=(served, swap.kind, target, cast[target]))
    order.start()
    time.sleep(swap.moment_s)
    if swap.replica is not None:
        _kill_replica(served, swap.replica)
    if swap.front:
        served.kill("engine")
    served.kill("serving")
    order.join()
    began = time.monotonic()
    if swap.front:
        served.start("engine")
    served.start("serving")
    clients.url = served.wait_until_ready()
    swap.back_after_s = round(time.monotonic() - began, 2)
    after = journal.current(served.database, ALIAS)
    assert after is not None
    swap.generation = after.generation
    told = clients.meaning()
    swap.ended = "torn"
    if after.generation == before.generation and told == before.adapter:
        swap.ended = "old"
    elif after.generation == before.generation + 1 and told == after.adapter == target:
        swap.ended = "new"


def _order(served: ApprovedHome, kind: str, target: str, cast: tuple[int, list[str]]) -> None:
    try:
        if kind == "rollback":
            served.admin("POST", "/rollback", {"actor": "storm", "reason": "the storm"})
        else:
            served.release(cast[0], target, cast[1])
    except Exception as error:
        # Cut off, as it is meant to be; what it did, the journal says.
        print(f"  {kind}: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)


def _kill_replica(served: ApprovedHome, index: int) -> None:
    path = str(served.home.socket(f"vllm-{index}")).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if path in words and b"appliance.engine.vllm.watcher" not in words:
            os.kill(int(folder.name), signal.SIGKILL)
            return


def _all_serving(health: Health) -> bool:
    facts = health.capabilities
    return facts.get("replicas_serving", 1) == facts.get("replicas", 1)


def _mixed(served: ApprovedHome, answers: list[Answer]) -> int:
    """Answers with a token that their stated version did not give."""
    count = 0
    for version in {answer.version for answer in answers}:
        adapter = None if version == "base" else version
        if adapter:
            served.engine.prepare(adapter, "storm")
        group = [answer for answer in answers if answer.version == version]
        for first in range(0, len(group), 64):
            part = group[first : first + 64]
            scored = served.engine.score(adapter, [[*PROMPT, *answer.ids] for answer in part])
            for answer, said in zip(part, scored, strict=True):
                own = said[len(PROMPT) - 1 :]
                pairs = zip(answer.logprobs, own, strict=True)
                count += max(abs(a - b) for a, b in pairs) > _TOLERANCE
    return count


class Clients:
    """Threads that stream answers whenever somebody answers, and keep those that came whole."""

    def __init__(self, key: str) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        self.refused = ""
        """The last answer that was none."""
        self._key = key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(_CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def wait_for_answers(self) -> None:
        """Until some came: the move is to happen under load."""
        wanted, deadline = len(self.answers) + _CLIENTS, time.monotonic() + _ANSWERS_TIMEOUT_S
        while len(self.answers) < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answers in {_ANSWERS_TIMEOUT_S} s: {self.refused}")
            time.sleep(0.01)

    def meaning(self) -> str | None:
        """What the alias means, as a client sees it."""
        with closing(self._connect()) as connection:
            connection.request("GET", f"/v1/models/{ALIAS}", headers=self._headers)
            version: str = connection.getresponse().headers["x-espalier-adapter"]
        return None if version == "base" else version

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}", "content-type": "application/json"}

    def _work(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            body = {
                "model": ALIAS, "prompt": PROMPT, "max_tokens": NUM_NEW, "temperature": 1.0,
                "seed": number * 1_000_000 + turn, "stream": True, "logprobs": 0,
                "return_token_ids": True,
            }  # fmt: skip
            try:
                with closing(self._connect()) as connection:
                    connection.request("POST", "/v1/completions", json.dumps(body), self._headers)
                    reply = connection.getresponse()
                    if reply.status == 200:
                        answer = Answer(reply.headers["x-espalier-adapter"], [], [])
                        if _read(reply, answer):
                            self.answers.append(answer)
                            continue
                    self.refused = f"{reply.status} {reply.read()[:300]!r}"
            except (OSError, http.client.HTTPException, ValueError):
                pass
            # The gateway was killed, or is on its way back.
            time.sleep(0.05)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)


def _read(reply: Any, answer: Answer) -> bool:
    for raw in reply:
        if raw.startswith(b"data: [DONE]"):
            return len(answer.ids) == NUM_NEW == len(answer.logprobs)
        if raw.startswith(b"data: {"):
            for choice in json.loads(raw[6:]).get("choices", []):
                answer.ids += choice.get("token_ids") or []
                answer.logprobs += (choice.get("logprobs") or {}).get("token_logprobs", [])
    return False


if __name__ == "__main__":
    sys.exit(main())
