"""The protected suite that comes with the law, for bases that know the world a little."""

import json
from pathlib import Path

import policies
from appliance.evaluation.prompts import item_texts
from appliance.evaluation.suites import read_suite
from policies.gates import parse_gates

_LAW = Path(policies.__file__).parent


def test_it_is_long_enough_for_the_gates_that_need_it() -> None:
    suite = read_suite(_LAW / "suites" / "public.jsonl")
    assert suite.kind == "protected"
    for name in ("smollm2", "imported"):
        gates = parse_gates((_LAW / "gates" / f"{name}.toml").read_text())
        needed = [gate.min_items for gate in gates.gate if gate.kind == "protected"]
        assert needed
        assert len(suite.items) >= max(needed)


def test_nothing_of_it_is_replayed_in_training() -> None:
    replayed = _LAW.parent / "adapter_training" / "replay" / "general.jsonl"
    said = {
        text
        for line in replayed.read_text().splitlines()
        for text in item_texts(json.loads(line)["messages"])
    }
    items = read_suite(_LAW / "suites" / "public.jsonl").items
    asked = {text for item in items for text in item_texts(item.messages)}
    assert not said & asked
