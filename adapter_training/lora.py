"""The base with one LoRA adapter on it. One signature per base: r and alpha, every linear layer of
the blocks, no dropout, no DoRA, no modules_to_save; so that every adapter of a base can be loaded
beside every other and swapped while requests run.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapter_training.attention import NAME, Tree, tree_attention
from adapter_training.layout import Layout
from adapter_training.linear import quicken
from appliance.core.adapters import CONFIG, WEIGHTS
from appliance.core.digests import Digest
from appliance.core.errors import RefusedError, UsageError
from appliance.core.recipe import Recipe

_KEPT_BYTES = 2 << 30
"""Activations kept for the backward pass; above it, a block's are computed again there: the same
numbers, a third more work, and memory for one block instead of all of them."""

# Decoders whose logits are the head's plain product with the last hidden state.
_FAMILIES = {"llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2"}


class LoraModel:
    """A frozen decoder with trainable LoRA weights, all in float32."""

    def __init__(self, base_path: Path, base: Digest, recipe: Recipe) -> None:
        """Load the base and attach a fresh adapter, drawn from the recipe's seed.

        Raises:
            UsageError: the base is of a kind that the trainer does not know.
        """
        import peft
        from transformers import AttentionInterface, AutoModelForCausalLM

        AttentionInterface.register(NAME, tree_attention)
        kind = json.loads((base_path / "config.json").read_text()).get("model_type")
        if kind not in _FAMILIES:
            known = ", ".join(sorted(_FAMILIES))
            raise UsageError(f"the trainer knows the model types {known}; this base is {kind!r}")
        causal = AutoModelForCausalLM.from_pretrained(
            base_path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=NAME,
        )
        self.head: Tensor = causal.get_output_embeddings().weight.detach()
        self.vocabulary = len(self.head)
        self.config = causal.config
        self.target_modules = _linear_layers(causal)
        self.signature = peft.LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=list(self.target_modules),
        )
        # peft takes the base's name from here: its digest, not where it happens to lie.
        causal.name_or_path = base
        torch.manual_seed(recipe.seed)
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 by an attribute's old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self.peft = peft.get_peft_model(causal, self.signature)
        self.peft.eval()
        for module in causal.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                quicken(module)
        self._decoder: nn.Module = causal.base_model
        most = _KEPT_BYTES // self.bytes_per_token
        for block in causal.base_model.layers:
            _recompute_above(most, block)

    @property
    def bytes_per_token(self) -> int:
        """Roughly what one token's activations take until the backward pass, float32."""
        config = self.config
        per_layer = 16 * config.hidden_size + 6 * config.intermediate_size
        return int(config.num_hidden_layers * per_layer * 4)

    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden state of every token, (tokens, hidden) float32."""
        out = self._decoder(
            input_ids=torch.from_numpy(layout.ids)[None],
            position_ids=torch.from_numpy(layout.positions)[None],
            tree=Tree.of(layout),
            use_cache=False,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """The adapter switched off, and no gradients: what the base itself would say."""
        with torch.no_grad(), self.peft.disable_adapter():
            yield

    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's weights by name, in a fixed order."""
        named = self.peft.named_parameters()
        return dict(sorted((name, p) for name, p in named if p.requires_grad))

    def continue_from(self, folder: Path) -> None:
        """Take the weights of an earlier adapter of the same signature.

        Raises:
            RefusedError: its rank, alpha or layers are not this recipe's.
        """
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        config = json.loads((folder / CONFIG).read_text())
        theirs = (config["r"], config["lora_alpha"], tuple(sorted(config["target_modules"])))
        ours = (self.signature.r, self.signature.lora_alpha, self.target_modules)
        if theirs != ours:
            raise RefusedError(
                f"one LoRA signature per base: the parent has (r, alpha, layers) {theirs}, "
                f"the recipe asks for {ours}",
                next_step="give the recipe the parent's rank and alpha, or train without a parent",
            )
        set_peft_model_state_dict(self.peft, load_file(folder / WEIGHTS))

    def save(self, folder: Path) -> None:
        """Write the PEFT directory: weights and configuration, the same bytes every time."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        state = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        weights = {name: state[name].contiguous() for name in sorted(state)}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = {**self.signature.to_dict(), "inference_mode": True}
        config["target_modules"] = list(self.target_modules)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _recompute_above(most: int, block: nn.Module) -> None:
    """Let a block that gets more than `most` tokens forget what it can compute again."""
    forward = block.forward

    def sparing(hidden: Tensor, **rest: Any) -> Any:
        if hidden.shape[1] <= most or not torch.is_grad_enabled():
            return forward(hidden, **rest)
        # Nothing in a block is drawn at random, so there is no generator to put back.
        return checkpoint(forward, hidden, use_reentrant=False, preserve_rng_state=False, **rest)

    block.forward = sparing


def _linear_layers(causal: Any) -> tuple[str, ...]:
    """Names of the linear layers inside the blocks, e.g. ``q_proj``; the head is not one."""
    head = causal.get_output_embeddings()
    linear = (
        name for name, m in causal.named_modules() if isinstance(m, nn.Linear) and m is not head
    )
    return tuple(sorted({name.rpartition(".")[2] for name in linear}))
