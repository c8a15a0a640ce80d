"""What the engine runs, against transformers; and what it says of the rest."""

import json

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from appliance.core.errors import UsageError
from appliance.inference.architecture import read_architecture
from appliance.inference.lora import LoraSlots
from appliance.inference.model import Model
from appliance.inference.scoring import score
from appliance.inference.weights import load_weights

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LlamaConfig(**SIZES, tie_word_embeddings=False), LlamaForCausalLM),
        (LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True), LlamaForCausalLM),
        (LlamaConfig(**SIZES, rope_parameters=LLAMA3), LlamaForCausalLM),
        (LlamaConfig(**SIZES, rope_parameters=LINEAR), LlamaForCausalLM),
        (MistralConfig(**SIZES, sliding_window=None), MistralForCausalLM),
        (Qwen2Config(**SIZES), Qwen2ForCausalLM),
    ],
)
def test_the_same_numbers_as_transformers(tmp_path, config, kind):
    torch.manual_seed(1)
    model = kind(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    shape = read_architecture(tmp_path)
    place = {"device": torch.device("cpu"), "dtype": torch.float32}
    ours = Model(shape, load_weights(tmp_path, shape, **place))
    row = torch.randint(0, 64, (200,)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([row])).logits[0].log_softmax(-1)
        scores = score(ours, LoraSlots(shape, slots=1, **place), [row], -1)[0]
    chosen = expected[:-1].gather(1, torch.tensor(row[1:])[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(scores), chosen, atol=1e-4, rtol=0)


def test_a_window_bounds_the_context(tmp_path):
    MistralConfig(
        **SIZES, sliding_window=100, architectures=["MistralForCausalLM"]
    ).save_pretrained(tmp_path)
    assert read_architecture(tmp_path).context_length == 100


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel"),
        ({"hidden_act": "gelu"}, "activation gelu"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary scaling yarn"),
    ],
)
def test_others_are_refused_with_what_it_runs(tmp_path, change, what):
    config = {**SIZES, "architectures": ["LlamaForCausalLM"], **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=f"does not run {what}") as refusal:
        read_architecture(tmp_path)
    assert "LlamaForCausalLM" in str(refusal.value)
