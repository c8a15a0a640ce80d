"""The whole command: what it publishes, that it repeats itself, that kill -9 changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from adapter_training import training
from adapter_training.checkpoint import Checkpoint
from adapter_training.command import main
from appliance.core.adapters import FILES, content_digest
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Adapter, Dataset, Probe, decode
from appliance.core.tables import adapters

_ROOT = Path(__file__).parents[2]


class Run:
    """The command, called in this process."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys
        self.recipe = home.root / "recipe.toml"
        self.write_recipe()

    def write_recipe(self, **fields: object) -> None:
        values = {"batch_tokens": 700, "epochs": 2, "learning_rate": 0.01, "rank": 4, **fields}
        self.recipe.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))

    def arguments(self, dataset: str, work: str, *more: str) -> list[str]:
        folder = str(self.home.root / work)
        return [
            "train", "--home", str(self.home.root), "--dataset", dataset, "--json",
            "--recipe", str(self.recipe), "--work", folder, *more,
        ]  # fmt: skip

    def __call__(self, dataset: str, work: str = "work", *more: str) -> dict[str, object]:
        assert main(self.arguments(dataset, work, *more)) == 0
        result: dict[str, object] = json.loads(self._capsys.readouterr().out.splitlines()[-1])
        return result

    def refused(self, dataset: str, work: str = "work", *more: str) -> str:
        assert main(self.arguments(dataset, work, *more)) != 0
        return self._capsys.readouterr().err


@pytest.fixture
def run(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(home, capsys)


@pytest.fixture
def dataset(maker) -> Digest:  # type: ignore[no-untyped-def]
    sealed: Digest = maker.seal([maker.example(i) for i in range(40)])
    return sealed


def test_it_learns_and_publishes(run: Run, dataset: Digest, database: Database) -> None:
    run.write_recipe(epochs=12)
    result = run(dataset)
    work = run.home.root / "work"
    curve = [json.loads(line) for line in (work / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["supervised"] < 0.7 * curve[0]["supervised"]
    progress = json.loads((work / "progress.json").read_text())
    assert progress["step"] == progress["total"] == len(curve)
    assert progress["eta_s"] == 0

    content = Digest(str(result["adapter"]))
    folder = run.home.adapter(content)
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert not any(file.stat().st_mode & 0o222 for file in (folder, *folder.iterdir()))
    record = decode((folder / "adapter.json").read_bytes(), Adapter)
    assert content_digest(folder, record.base) == content == record.content
    assert record.dataset == decode(ObjectStore(run.home.objects).get(dataset), Dataset).digest
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == record.base
    assert (config["use_dora"], config["modules_to_save"], config["lora_dropout"]) == (
        False,
        None,
        0.0,
    )
    assert record.target_modules == (
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    )  # fmt: skip
    with database.read() as connection:
        row = connection.execute(sa.select(adapters)).one()
    assert (row.content, row.number, row.label) == (content, 1, "internal")


def test_the_probe_is_what_peft_computes_from_the_published_files(
    run: Run, dataset: Digest, base
) -> None:  # type: ignore[no-untyped-def]
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    content = Digest(str(run(dataset)["adapter"]))
    folder = run.home.adapter(content)
    record = decode((folder / "adapter.json").read_bytes(), Adapter)
    probe = decode(ObjectStore(run.home.objects).get(record.probe), Probe)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    plain = [_logprobs(model, ids) for ids in probe.ids]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # peft's, about an attribute's name
        tuned_model = PeftModel.from_pretrained(model, folder)
    tuned = [_logprobs(tuned_model, ids) for ids in probe.ids]
    for mine, theirs in ((probe.base_logprobs, plain), (probe.logprobs, tuned)):
        assert np.abs(np.concatenate(mine) - np.concatenate(theirs)).max() < 1e-4
    gap = np.concatenate(probe.logprobs) - np.concatenate(probe.base_logprobs)
    assert np.abs(gap).max() > 0.01


def _logprobs(model, ids) -> list[float]:  # type: ignore[no-untyped-def]
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return [float(logits[i, token]) for i, token in enumerate(ids[1:])]


def test_the_same_record_gives_the_same_bytes_and_is_listed_once(
    run: Run, dataset: Digest, database: Database
) -> None:
    first, second = run(dataset, "one"), run(dataset, "two")
    assert first["adapter"] == second["adapter"]
    assert first["number"] == second["number"] == 1
    run.write_recipe(seed=1)
    assert run(dataset, "three")["number"] == 2


def test_a_run_stopped_after_any_step_ends_with_the_same_bytes(
    run: Run, dataset: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SHARE", float("inf"))
    whole = run(dataset, "whole")
    original = Checkpoint.save

    class Stopped(Exception):
        pass

    def save_then_stop(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_then_stop)
        for _ in range(int(str(whole["steps"]))):
            with pytest.raises(Stopped):
                main(run.arguments(dataset, "stopped"))
    resumed = run(dataset, "stopped")
    assert resumed["adapter"] == whole["adapter"]
    assert resumed["steps"] == whole["steps"] > 5
    one, other = (run.home.root / work / "curve.jsonl" for work in ("whole", "stopped"))
    assert one.read_bytes() == other.read_bytes()


def test_kill_9_of_a_real_process(run: Run, maker, dataset: Digest) -> None:  # type: ignore[no-untyped-def]
    run.write_recipe(epochs=30)
    whole = run(dataset, "whole")
    command = [sys.executable, "-m", "adapter_training", *run.arguments(dataset, "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoint = run.home.root / "killed" / "checkpoint.safetensors"
    process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not checkpoint.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert len((run.home.root / "killed" / "curve.jsonl").read_text().splitlines()) < int(
        str(whole["steps"])
    )
    assert run(dataset, "killed")["adapter"] == whole["adapter"]


def test_another_runs_work_folder_is_not_touched(run: Run, dataset: Digest) -> None:
    run(dataset)
    run.write_recipe(seed=5)
    assert "belongs to a run with another dataset" in run.refused(dataset)


def test_it_continues_a_parent_and_joins_their_labels(run: Run, maker, dataset: Digest) -> None:  # type: ignore[no-untyped-def]
    examples = [maker.example(i) for i in range(12)]
    parent = run(maker.seal(examples, label="secret/finance"), "parent")
    child = run(dataset, "child", "--parent", str(parent["adapter"]))
    orphan = run(dataset, "orphan")
    assert child["label"] == "secret/finance"
    assert orphan["label"] == "internal"
    curves = [(run.home.root / work / "curve.jsonl") for work in ("child", "orphan")]
    first = [json.loads(path.read_text().splitlines()[0])["supervised"] for path in curves]
    assert first[0] < first[1] - 0.1
    record = run.home.adapter(Digest(str(child["adapter"]))) / "adapter.json"
    assert decode(record.read_bytes(), Adapter).parent == parent["adapter"]


def test_a_parent_of_another_signature_is_refused(run: Run, dataset: Digest) -> None:
    parent = str(run(dataset, "parent")["adapter"])
    run.write_recipe(rank=8)
    assert "one LoRA signature per base" in run.refused(dataset, "child", "--parent", parent)


def test_a_changed_parent_is_refused(run: Run, dataset: Digest) -> None:
    parent = Digest(str(run(dataset, "parent")["adapter"]))
    config = run.home.adapter(parent) / "adapter_config.json"
    config.chmod(0o644)
    config.write_text(config.read_text() + " ")
    assert "was changed on disk" in run.refused(dataset, "child", "--parent", parent)


def test_a_dataset_of_another_template_is_refused(run: Run, maker) -> None:  # type: ignore[no-untyped-def]
    other = maker.seal([maker.example(0)], template="sha256:" + "0" * 64)
    assert "curate again" in run.refused(other)


def test_policy_gradient_runs_on_logged_answers(run: Run, maker) -> None:  # type: ignore[no-untyped-def]
    run.write_recipe(loss="outcome_pg")
    kinds = ["success", "failure", "failure"]
    logged = maker.seal([maker.example(i, kind=kinds[i % 3]) for i in range(30)])
    result = run(logged)
    curve = (run.home.root / "work" / "curve.jsonl").read_text().splitlines()
    assert all(json.loads(line)["policy"] for line in curve)
    assert result["steps"] == len(curve)


def test_a_learning_rate_that_ruins_the_model_only_warns(run: Run, dataset: Digest) -> None:
    run.write_recipe(learning_rate=5.0, epochs=20)
    result = run(dataset)
    assert result["warnings"]
    folder = run.home.adapter(Digest(str(result["adapter"])))
    record = decode((folder / "adapter.json").read_bytes(), Adapter)
    assert any(name.startswith("warned_") for name in record.metrics)
    assert all(np.isfinite(value) for value in record.metrics.values())


@pytest.mark.parametrize(("memory_mib", "shares"), [(0, []), (1024, [0.25]), (8192, [1.0])])
def test_on_a_gpu_the_memory_limit_is_of_the_device(
    monkeypatch: pytest.MonkeyPatch, memory_mib: int, shares: list[float]
) -> None:
    import torch

    class Properties:
        total_memory = 4096 << 20

    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _: found.append(share)
    )
    training._bound_device_memory(torch.device("cuda"), memory_mib)
    assert found == shares
