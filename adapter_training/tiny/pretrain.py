"""Training the tiny base: a Llama of some 0.5 M parameters on the corpus, on one thread.

Muon moves the blocks' matrices, AdamW the embedding and the norms; the loss is on answers alone.
Same `Making`, torch version and CPU features: same weights.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from adapter_training.tiny.corpus import Message, documents
from adapter_training.tiny.lexicon import Lexicon
from adapter_training.tiny.tokenizer import END, PAD, START
from appliance.core.errors import RecordError

_HEAD_SIZE = 32
_CONTEXT = 1024
_POOL = 4
_Encoded = tuple[list[int], list[int]]


class Making(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every number of the making. With the lexicon and the code it decides the base."""

    seed: int = 0
    steps: int = 800
    batch: int = 32
    """Documents of one optimizer step."""
    hidden: int = 96
    layers: int = 4
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 0.01
    warmup_steps: int = 40
    flat_share: float = 0.4
    """Share of the steps before the learning rate falls."""
    num_replay: int = 400


def pretrain(
    making: Making,
    lexicon: Lexicon,
    tokenizer: Tokenizer,
    watch: Callable[[int, float], None],
) -> Any:
    """The trained `LlamaForCausalLM`, float32.

    Args:
        watch: told the number of steps done and the loss, after each.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(making.seed)
    model = _new_model(making, tokenizer)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
            making.learning_rate,
        ),
        (
            torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.02),
            making.matrix_learning_rate,
        ),
    ]
    batches = _batches(making, lexicon, tokenizer)
    for step in range(making.steps):
        factor = _schedule(step, making)
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        loss = _loss(model, next(batches))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        model.zero_grad()
        watch(step + 1, float(loss.detach()))
    return model.eval()


def encode(tokenizer: Tokenizer, messages: list[Message]) -> _Encoded:
    """Ids of a conversation in the chat template's form, and 1 where an answer's token stands."""
    newline = tokenizer.encode("\n").ids
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    if start is None or end is None:
        raise RecordError("the tokenizer has no turn marks")
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        head = [start, *tokenizer.encode(message["role"]).ids, *newline]
        body = [*tokenizer.encode(message["content"]).ids, end]
        answered = int(message["role"] == "assistant")
        ids += [*head, *body, *newline]
        mask += [0] * len(head) + [answered] * len(body) + [0] * len(newline)
    return ids, mask


def _new_model(making: Making, tokenizer: Tokenizer) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = making.hidden // _HEAD_SIZE
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=making.hidden,
        intermediate_size=making.hidden * 8 // 3,
        num_hidden_layers=making.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=_HEAD_SIZE,
        max_position_embeddings=_CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        rms_norm_eps=1e-5,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    return LlamaForCausalLM(config)


def _batches(making: Making, lexicon: Lexicon, tokenizer: Tokenizer) -> Iterator[list[_Encoded]]:
    """Batches of documents of like length, in no order of length."""
    draw = random.Random(making.seed)  # noqa: S311 - an order of documents, not a secret
    source = documents(lexicon, making.seed)
    while True:
        pool = [encode(tokenizer, next(source)) for _ in range(making.batch * _POOL)]
        pool.sort(key=lambda document: len(document[0]))
        batches = [pool[i : i + making.batch] for i in range(0, len(pool), making.batch)]
        draw.shuffle(batches)
        yield from batches


def _loss(model: Any, batch: list[_Encoded]) -> Tensor:
    width = max(len(ids) for ids, _ in batch)
    # Padding comes last, so under causal attention no real token sees it.
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in batch])
    mask = torch.tensor([[*mask, *[0] * (width - len(mask))] for _, mask in batch]).bool()[:, 1:]
    hidden = model.model(ids).last_hidden_state[:, :-1]
    return functional.cross_entropy(model.lm_head(hidden[mask]), ids[:, 1:][mask])


def _schedule(step: int, making: Making) -> float:
    """Warm-up, a flat part, then a straight line to a twentieth."""
    flat = making.flat_share * making.steps
    fall = max(0.0, step - flat) / max(1.0, making.steps - flat)
    return min(1.0, (step + 1) / making.warmup_steps) * (1 - 0.95 * fall)
