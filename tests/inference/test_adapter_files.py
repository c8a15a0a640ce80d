"""Adapters that must not be loaded, each with its reason."""

import pytest
import torch

from appliance.core.errors import AdapterError

FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def _set(name, value):
    return lambda weights, config: config.__setitem__(name, value)


def _poke(value):
    return lambda weights, config: weights[FIRST].__setitem__((0, 0), value)


def _replace(name, tensor):
    return lambda weights, config: weights.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("nan", _poke(float("nan"))),
        ("infinite", _poke(float("inf"))),
        ("wrong_base", _replace(FIRST, torch.zeros(4, 65))),
        ("wrong_rank", _replace(FIRST, torch.zeros(3, 64))),
        ("wrong_rank", _set("rank_pattern", {"q_proj": 2})),
        ("over_rank", _set("r", 100_000)),
        ("foreign_modules", _replace(FIRST.replace("layers.0", "layers.9"), torch.zeros(4, 64))),
        ("malformed", lambda weights, config: weights.pop(FIRST)),
        ("malformed", _set("peft_type", "IA3")),
        ("dora", _set("use_dora", True)),
        ("modules_to_save", _set("modules_to_save", ["lm_head"])),
    ],
)
def test_bad_adapters_are_refused(make_engine, make_adapter, install, reason, change):
    engine = make_engine()
    adapter, _ = make_adapter(1, change=change)
    with pytest.raises(AdapterError) as refusal:
        install(engine, adapter)
    assert refusal.value.reason == reason
    assert engine.residents.digests == []


def test_changed_bytes_are_refused(home, make_engine, make_adapter, install):
    adapter, _ = make_adapter(1)
    weights = home.adapter(adapter) / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(AdapterError) as refusal:
        install(make_engine(), adapter)
    assert refusal.value.reason == "digest_mismatch"


def test_missing_files_are_refused(home, make_engine, make_adapter, install):
    adapter, _ = make_adapter(1)
    (home.adapter(adapter) / "adapter_config.json").unlink()
    with pytest.raises(AdapterError) as refusal:
        install(make_engine(), adapter)
    assert refusal.value.reason == "missing_file"


def test_a_module_that_an_adapter_leaves_out_adds_nothing(
    make_engine, make_adapter, install, submit, run
):
    def only_one(weights, config):
        for name in [n for n in weights if "layers.1.mlp.down_proj" not in n]:
            del weights[name]

    engine = make_engine()
    adapter, _ = make_adapter(1, change=only_one)
    install(engine, adapter)
    collected = submit(engine, [5, 6], adapter=adapter, max_tokens=3)
    run(engine)
    assert len(collected.ids[0]) == 3
