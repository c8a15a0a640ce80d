"""A coding agent from the registries, unmodified, on a repository: mini-swe-agent by its command.

It is judged by protocol and by what was logged: whether it solved anything is no matter here.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from adapter_training.bases.cache import cache_folder
from adapter_training.bases.smollm2 import fetch_smollm2
from appliance.core.home import Home
from appliance.core.records import Turn, convert
from tests.services.agents import agent_environment, bring_mini_swe_agent
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, wait_for_key
from tests.serving.embedded import embedded_engine
from tests.serving.engine_simulator import EngineSimulator

TASK = "greet.py misspells Hello. Correct the word."


@pytest.fixture(scope="module")
def mini() -> Path:
    """The agent's program. Where it cannot be had, tests are skipped; in CI they fail."""
    program, reason = bring_mini_swe_agent()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return program


@pytest.fixture(scope="module")
def context_length() -> int:
    """A byte a token: the agent's prompt is some 5 KiB."""
    return 1 << 15


@pytest.fixture(scope="module")
def engine(appliance: Appliance) -> Iterator[EngineSimulator]:
    path = appliance.home.socket("engine")
    with EngineSimulator(path, appliance.base.digest, appliance.template) as simulator:
        simulator.context_length = 1 << 15
        yield simulator


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one file and one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "greet.py").write_text("print('Helo')\n")
    person = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def work(
    mini: Path, repository: Path, appliance: Appliance, gateway: GatewayProcess, *words: str
) -> "subprocess.CompletedProcess[str]":
    """One run of the agent on the task, with a key of its own."""
    secret, key = appliance.add_key()
    wait_for_key(gateway, secret)
    done = subprocess.run(
        [str(mini), "-m", f"openai/{ALIAS}", "-t", TASK, "-y", "--exit-immediately",
         "-o", str(repository.parent / "run.json"), *words],
        cwd=repository, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
        env=agent_environment(repository.parent, f"{gateway.url}/v1", secret),
    )  # fmt: skip
    done.args = key.key_id
    return done


def turns_of(appliance: Appliance, key_id: str) -> list[Turn]:
    """What was logged under this key, in order."""
    records = [event.record for event in appliance.events() if event.kind == "turn"]
    turns = [convert(record, Turn) for record in records]
    return [turn for turn in turns if turn.who.key_id == key_id]


def call(command: str, why: str) -> str:
    """An answer that runs a command."""
    arguments = json.dumps({"name": "bash", "arguments": {"command": command}})
    return f"{why}\n<tool_call>\n{arguments}\n</tool_call>"


def test_it_works_through_the_gateway_and_every_turn_is_logged(
    mini: Path,
    repository: Path,
    appliance: Appliance,
    engine: EngineSimulator,
    gateway: GatewayProcess,
) -> None:
    engine.queue += [
        call("cat greet.py", "I look at the file."),
        call("sed -i s/Helo/Hello/ greet.py && git diff --stat", "One letter is missing."),
        call("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT", "Done."),
    ]
    done = work(mini, repository, appliance, gateway)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (repository / "greet.py").read_text() == "print('Hello')\n"
    assert not engine.queue

    turns = turns_of(appliance, done.args)
    assert [turn.finish_reason for turn in turns] == ["tool_calls"] * 3
    assert [turn.answer["content"] for turn in turns] == [
        "I look at the file.",
        "One letter is missing.",
        "Done.",
    ]
    first, *_, last = turns
    assert first.tools[0]["function"]["name"] == "bash"
    assert TASK in str(first.messages)
    # The tree grows by what was said: each prompt begins with the one before it.
    for before, after in pairwise(turns):
        assert after.messages[: len(before.messages)] == before.messages
    assert "1 file changed" in str(last.messages)
    assert all(turn.prompt_ids and turn.answer_ids and turn.logprobs for turn in turns)


@pytest.mark.smollm2
@pytest.mark.timeout(600)
def test_its_prompt_fits_a_real_model(
    mini: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not list(cache_folder().glob("smollm2-*")):
        pytest.skip("SmolLM2 is not in the cache: espalier base fetch smollm2")
    made = Home(tmp_path / "made")
    made.create()
    fetch_smollm2(made)
    with embedded_engine(made.root, "smollm2", tmp_path) as appliance:
        gateway = GatewayProcess(appliance)
        gateway.start()
        limits = ("-c", "mini.yaml", "-c", "agent.step_limit=2")
        limits += ("-c", "model.model_kwargs.max_tokens=120")
        done = work(mini, repository, appliance, gateway, *limits)
        assert gateway.stop() == 0, gateway.log
        turns = turns_of(appliance, done.args)
    assert len(turns) == 2, done.stdout + done.stderr
    assert all(turn.finish_reason in ("stop", "length", "tool_calls") for turn in turns)
    longest = max(turn.prompt_ids.count for turn in turns if turn.prompt_ids)
    with capsys.disabled():
        print(f"\nmini-swe-agent on SmolLM2: prompts of at most {longest} tokens")
    assert longest < 8192
    assert all(turn.answer_ids and turn.answer_ids.count for turn in turns)
