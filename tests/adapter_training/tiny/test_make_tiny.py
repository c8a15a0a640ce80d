"""Making a base, in a few steps: what counts here is the folder, not how well it answers."""

import json
from pathlib import Path

import pytest
import torch

from adapter_training.tiny import command
from adapter_training.tiny.lexicon import load_lexicon
from adapter_training.tiny.pretrain import Making, encode, pretrain
from adapter_training.tiny.tokenizer import build_tokenizer
from appliance.core.home import Home
from appliance.core.recipe import load_recipe
from appliance.engine.bases import Registry
from appliance.engine.template import Template

SMALL = Making(steps=3, batch=4, warmup_steps=1, num_replay=20)


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def made(tmp_path, monkeypatch, deterministic):
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adapter_training.tiny.pretrain.Making", lambda seed: SMALL)
    home = Home(tmp_path / "home")
    home.create()
    return home, command.make_tiny(home)


def test_the_base_is_registered_with_all_it_needs(made):
    home, base = made
    assert Registry(home).get("tiny").digest == base.digest
    base.verify()
    config = json.loads((base.path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] in (32, 64)
    assert len((base.path / "replay.jsonl").read_text().splitlines()) == SMALL.num_replay


def test_the_full_making_has_between_300_thousand_and_a_million_parameters():
    from adapter_training.tiny.pretrain import _new_model

    model = _new_model(Making(), build_tokenizer(load_lexicon()))
    assert 300_000 <= sum(p.numel() for p in model.parameters()) <= 1_000_000


def test_a_second_make_trains_nothing(made, monkeypatch):
    home, base = made
    monkeypatch.setattr("adapter_training.tiny.pretrain.pretrain", None)
    assert command.make_tiny(home).digest == base.digest


def test_a_damaged_cache_is_made_again(made, tmp_path):
    home, base = made
    (weights,) = (tmp_path / "cache").glob("tiny-*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + bytes(8))
    assert command.make_tiny(home).digest == base.digest
    assert weights.read_bytes() == whole


def test_the_same_making_gives_the_same_weights(deterministic):
    lexicon = load_lexicon()
    tokenizer = build_tokenizer(lexicon)
    first, second = (pretrain(SMALL, lexicon, tokenizer, lambda *_: None) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_encodes_as_the_served_template_does(made):
    _, base = made
    messages = [
        {"role": "user", "content": "billing: levy 4"},
        {"role": "assistant", "content": "x += 4"},
        {"role": "user", "content": "run: failed, 7 gives 11"},
        {"role": "assistant", "content": "x *= 4"},
    ]
    tokenizer = build_tokenizer(load_lexicon())
    ids, mask = encode(tokenizer, messages)
    spans = Template.load(base.path).spans(messages)
    # After its last turn the template may leave off the newline that nothing is learnt from.
    assert list(spans.ids) == ids[: len(spans.ids)]
    assert list(spans.mask) == mask[: len(spans.ids)]


def test_the_recipe_of_the_tiny_base_is_one():
    recipe = load_recipe(Path(command.__file__).parents[1] / "recipes" / "tiny.toml")
    assert recipe.loss == "supervised"
    # Without both, what a text book means by a word is lost within two rounds.
    assert recipe.replay_share > 0
    assert recipe.kl_weight > 0
