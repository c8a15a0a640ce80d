"""A round over logged attempts on the tiny base, from the request to the swap: seconds per part.

    python -m benchmarks.round [--json] [--attempts 2048]

The demo's agents make the attempts on a real appliance first, which is not timed. Then one round
is timed: seal, curate, train, evaluate, two signatures, probe and swap. The peer's figure is the
project's own goal, 60 s on two cores: no peer has such a round to run beside it.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from appliance.demo.company_file import load_company
from appliance.demo.fleets import Fleets
from appliance.demo.house import House
from appliance.demo.memory import MemoryMeter
from appliance.demo.plan import PLANS
from appliance.demo.suites import splits, write_suite, write_tasks
from appliance.demo.tasks import make_tasks
from appliance.demo.voice import Voice
from benchmarks.about import about

_PLAN = PLANS["tiny"]
_SIGNERS = ("bela", "carl")
_GOAL_S = 60.0


def main() -> None:
    """Print a table, and with --json one last line of JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.round", description=__doc__)
    parser.add_argument("--attempts", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="espalier-round-"))
    house = House(folder / "home")
    try:
        with MemoryMeter() as memory:
            result = _measure(house, folder, options, memory)
    finally:
        if house.base_url:
            house.ask("down")
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in result.items():
        print(f"{name:18} {value}")
    if options.json:
        print(json.dumps(result))


def _measure(
    house: House, folder: Path, options: argparse.Namespace, memory: MemoryMeter
) -> dict[str, Any]:
    voice = Voice(memory)
    company = load_company(_PLAN.company, base=_PLAN.base)
    house.home.mkdir()
    house.run("base", "make-tiny")
    (house.home / "espalier.toml").write_text(
        '[gateway]\nport = 0\n[control]\nport = 0\n[engine]\nbase = "tiny"\n'
    )
    up = house.ask("up")
    house.base_url, house.api_key = up["openai_base_url"], up["openai_api_key"]
    for part in up["parts"]:
        memory.watch(part["pid"])
    for name, role, by in (("ada", "admin", None), ("olga", "operator", "ada")):
        house.add_person(name, role, by=by)
    for name in _SIGNERS:
        house.add_person(name, "approver", by="ada")
    for split in splits(company):
        if split.governs:
            suite = write_suite(company, split, _PLAN, options.seed, folder)
            house.ask("law", "set", "suite", str(suite.path), person="olga")
    house.ask("law", "set", "recipe", str(_PLAN.recipe), person="olga")
    house.ask("law", "set", "gates", str(_PLAN.gates), person="olga")
    tasks = write_tasks(
        make_tasks(company, "train", options.attempts, options.seed), folder / "tasks"
    )
    voice.say(f"{options.attempts} attempts, not timed")
    worked = Fleets(house, _PLAN, folder, voice, "company-model").work(tasks, options.attempts)
    about_it = about("torch")
    voice.say(f"the round, timed; load {about_it['load']}")
    begun = time.monotonic()
    asked = house.ask("round", "run", "--wait", "--idle-s", "0", person="olga")
    judged = time.monotonic()
    number = str(asked["round"])
    if asked["state"] == "awaiting_approval":
        for name in _SIGNERS:
            house.ask("approve", number, "--adapter", asked["adapter"], person=name)
    while (round_ := house.ask("review", number))["verdict"] is None:
        time.sleep(0.1)
    ended = time.monotonic()
    return {
        "attempts": worked["trajectories"],
        "answers": worked["requests"],
        "verdict": round_["verdict"],
        "seconds": round(ended - begun, 1),
        "goal_seconds": _GOAL_S,
        "until_judged_s": round(judged - begun, 1),
        "sign_and_swap_s": round(ended - judged, 1),
        "peak_rss_mib": round(memory.peak_mib),
        **about_it,
    }


if __name__ == "__main__":
    main()
