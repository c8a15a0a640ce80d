"""The command line: what it prints, and how it ends when something is wrong."""

import json
import re
from pathlib import Path

import pytest

from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.engine.bases import Base
from appliance.engine.template import Template
from appliance.evaluation.command import main
from appliance.evaluation.suites import make_suite, write_suite
from tests.evaluation.scripted_engine import CANDIDATE, ScriptedEngine, Side, item, seal


@pytest.fixture
def suites(home: Home) -> Path:
    for name, kind in [("company", "target"), ("public", "protected"), ("secret", "held_out")]:
        items = [item(f"{name}{i}", f"{name} {i}", str(i), "odd" if i % 2 else "even")
                 for i in range(10)]  # fmt: skip
        write_suite(home.suites / f"{name}.jsonl", make_suite(name, kind, items))  # type: ignore[arg-type]
    return home.suites


@pytest.fixture
def dataset(home: Home, base: Base, template: Template, engine: ScriptedEngine) -> Digest:
    def answer(side: Side, prompt: str) -> str:
        number = re.findall(r"(?:company|public|secret) (\d+)", prompt)[0]
        return number if side == CANDIDATE or int(number) < 5 else "?"

    engine.answer = answer
    return seal(home, base, template, [(f"please {i} mend", "ok") for i in range(8)])


def test_run_ends_with_the_scorecards_digest(
    home: Home, suites: Path, dataset: Digest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["run", "--home", str(home.root), "--candidate", CANDIDATE, "--suites", str(suites)]
    order += ["--dataset", dataset, "--work", str(tmp_path / "work"), "--json"]
    assert main(order) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["overlap"] == {"company": 0, "public": 0, "secret": 0}
    card = json.loads((tmp_path / "work/scorecard.json").read_text())
    assert last["scorecard"].startswith("sha256:")
    assert card["champion"] is None
    assert [suite["suite"] for suite in card["suites"]][:2] == ["company", "public"]


@pytest.mark.parametrize(("adapter", "passed"), [("base", 5), (CANDIDATE, 10)])
def test_evaluate_measures_one_adapter_on_a_held_out_suite_too(
    home: Home,
    suites: Path,
    dataset: Digest,
    capsys: pytest.CaptureFixture[str],
    adapter: str,
    passed: int,
) -> None:
    suite = str(suites / "secret.jsonl")
    assert main(["evaluate", adapter, "--home", str(home.root), "--suite", suite, "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["suite"], last["items"], last["passed"], last["rate"]) == (
        "secret", 10, passed, passed / 10,
    )  # fmt: skip
    assert last["by_family"] == {"even": [5, (passed + 1) // 2], "odd": [5, passed // 2]}
    assert (last["kind"], last["adapter"]) == ("held_out", adapter)


def test_what_is_wrong_is_one_message_and_an_exit_code(
    home: Home, suites: Path, dataset: Digest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"suite": "s"}\n')
    assert main(["evaluate", "base", "--home", str(home.root), "--suite", str(bad)]) == 2
    assert "line 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "tiny", "--suite", str(bad)])
    assert "expected sha256:" in capsys.readouterr().err


def test_without_an_engine_the_message_says_what_to_do(
    home: Home, suites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(suites / "secret.jsonl")
    assert main(["evaluate", "base", "--home", str(home.root), "--suite", suite]) == 7
    assert "next: espalier doctor" in capsys.readouterr().err
