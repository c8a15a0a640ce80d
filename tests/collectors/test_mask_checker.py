"""What is trained on, checked from the raw files (reassembly.py), on a test base and a real one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_training.bases.cache import cache_folder
from adapter_training.bases.smollm2 import fetch_smollm2
from appliance.core.home import Home
from appliance.core.settings import Settings
from appliance.engine.bases import Base
from collectors.curation.run import Made, Order, curate, left_out
from collectors.importing.importer import Source
from collectors.importing.run import import_files
from tests.collectors.reassembly import unassembled


@pytest.fixture
def files(home: Home, data: Callable[[str], Path]) -> list[Path]:
    """The data folder, imported. A person vouches for all of it, so that the failures are looked
    at too."""
    files = [data("tau_bench_airline_gpt4o.json"), *sorted(data("swe_agent").glob("*.traj"))]
    import_files(home, Settings(), files, Source(label="internal", outcome="ok"))
    return files


def seal(home: Home, base: str, *, max_tokens: int) -> Made:
    recipe = home.root / "recipe.toml"
    recipe.write_text(f"max_tokens = {max_tokens}\n")
    return curate(home, Settings(), Order(recipe=recipe, base=base))


def test_every_example_can_be_put_together_from_the_raw_files(
    home: Home, base: Base, files: list[Path]
) -> None:
    made = seal(home, base.name, max_tokens=200_000)
    assert made.excluded == {}
    assert unassembled(home.root, made.dataset, files) == (105, [])


def test_so_can_those_that_other_clients_wrote(home: Home, base: Base, tmp_path: Path) -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    calls = [
        {"index": 1, "id": "a", "type": "function", "function": {"name": name, "arguments": text}}
        for name, text in [("look", '{"a": "\\u00fc", "b": [1, 2.50, 1e20]}'), ("see", "{}")]
    ]
    called = {"role": "assistant", "content": "Let me see.\n\n", "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": "a", "name": "look", "content": "one\r\n\0"}] * 2
    nulls = {"tool_calls": None, "function_call": None, "provider_specific_fields": None}
    done = {"role": "assistant", "content": "\n\n Done <|im_end|> \n", **nulls}
    empty = {"role": "assistant", "content": "", **nulls}
    greeting = {"role": "assistant", "content": "How can I help?"}
    retail = tmp_path / "retail.json"
    trials = [[user, called, *results, done], [greeting, user, done], [user, empty, user, done]]
    records = [{"task_id": 0, "reward": 1, "info": {}, "traj": t} for t in trials]
    retail.write_text(json.dumps(records, indent=2))
    demonstration = {"role": "assistant", "content": "shown", "is_demo": True}
    run = tmp_path / "run.traj"
    run.write_text(json.dumps({"history": [user, demonstration, user, called, *results, done]}))
    reports = import_files(home, Settings(), [retail, run], Source(label="internal", outcome="ok"))
    assert [(r.trajectories, r.turns, r.successes) for r in reports] == [(3, 5, 3), (1, 2, 1)]
    made = seal(home, base.name, max_tokens=200_000)
    assert made.excluded == {}
    assert unassembled(home.root, made.dataset, [retail, run]) == (4, [])


@pytest.mark.smollm2
def test_so_it_is_with_a_real_tokenizer(home: Home, files: list[Path]) -> None:
    if not list(cache_folder().glob("smollm2-*")):
        pytest.skip("SmolLM2 is not in the cache: espalier base fetch smollm2")
    made = seal(home, fetch_smollm2(home).name, max_tokens=8192)
    assert set(made.excluded) == {"too_long"}
    assert unassembled(home.root, made.dataset, files) == (105 - made.excluded["too_long"], [])
    named = left_out(home, made.dataset)
    assert len(named) == made.excluded["too_long"]
    assert all(line.split("  ")[-1].partition(",")[0] in {f.name for f in files} for line in named)


def test_an_example_that_says_something_else_is_found(
    home: Home, base: Base, files: list[Path]
) -> None:
    made = seal(home, base.name, max_tokens=200_000)
    raw = files[0].read_text().replace("reservation", "booking")
    forged = home.root / "forged.json"
    forged.write_text(raw)
    _, wrong = unassembled(home.root, made.dataset, [forged, *files[1:]])
    assert len(wrong) > 50
