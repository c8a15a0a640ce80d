"""The command that vLLM is started with, and what a command line prints of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core.errors import SettingsError
from appliance.core.home import Home
from appliance.core.settings import Engine, Vllm
from appliance.engine.bases import Base, Registry
from appliance.engine.vllm.launch import inherited, launch, slot_rank


@pytest.fixture
def base(home: Home, model_folder: Path) -> Base:
    return Registry(home).add_directory(model_folder, "small", "made by a test")


def _words(base: Base, engine: Engine, vllm: Vllm) -> str:
    made = launch(
        base, engine, vllm, python="python", socket=Path("/run/vllm-0.sock"), cache=Path("/cache")
    )
    return " ".join(made.command)


def test_a_gpu_is_used_as_far_as_the_settings_say(base: Base) -> None:
    words = _words(base, Engine(device="cuda", dtype="bfloat16"), Vllm(gpu_memory_utilization=0.6))
    assert "--gpu-memory-utilization 0.6" in words
    assert "--dtype bfloat16" in words
    assert "--enforce-eager" not in words


def test_slots_and_rank_are_those_of_the_settings(base: Base) -> None:
    words = _words(base, Engine(slots=3, max_batch=7), Vllm(max_rank=12))
    assert "--max-loras 3 --max-cpu-loras 4 --max-lora-rank 16" in words
    assert "--max-num-seqs 7" in words


def test_logprobs_are_of_the_distribution_that_was_drawn_from(base: Base) -> None:
    assert "--logprobs-mode processed_logprobs" in _words(base, Engine(), Vllm())


def test_the_operators_words_come_last(base: Base) -> None:
    words = _words(base, Engine(), Vllm(arguments=["--tensor-parallel-size", "2"]))
    assert words.endswith("--tensor-parallel-size 2")


@pytest.mark.parametrize(("rank", "slots"), [(1, 1), (2, 8), (16, 16), (33, 64), (512, 512)])
def test_the_smallest_slots_that_hold_a_rank_are_taken(rank: int, slots: int) -> None:
    assert slot_rank(rank) == slots


def test_a_rank_that_has_no_slots_is_refused() -> None:
    with pytest.raises(SettingsError, match="at most 512, got 513"):
        slot_rank(513)


def test_nothing_of_somebodys_shell_changes_what_is_served() -> None:
    shell = {"PATH": "/bin", "VLLM_PLUGINS": "x", "HF_TOKEN": "secret", "ESPALIER_AS": "ada"}
    assert inherited(shell) == {"PATH": "/bin"}


def test_the_command_is_printed_for_a_container(home: Home, base: Base) -> None:
    ended = _serve(home, base, "--print", "--json")
    assert ended.returncode == 0, ended.stderr
    replicas = json.loads(ended.stdout)
    assert len(replicas) == 2
    assert str(home.socket("vllm-1")) in replicas[1]["command"]
    assert replicas[0]["environment"]["HF_HUB_OFFLINE"] == "1"


def test_an_environment_that_is_not_there_is_told_with_the_next_step(
    home: Home, base: Base
) -> None:
    ended = _serve(home, base)
    assert ended.returncode == SettingsError.exit_code
    assert "[vllm] python: there is no" in ended.stderr
    assert "next: " in ended.stderr


def _serve(home: Home, base: Base, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "appliance.engine.vllm", "serve", "vllm", *words],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ESPALIER_HOME": str(home.root),
            "ESPALIER__ENGINE__KIND": "vllm",
            "ESPALIER__ENGINE__BASE": base.name,
            "ESPALIER__VLLM__REPLICAS": "2",
        },
    )
