"""From settings and a registered base to an engine that is ready."""

import os
import time

import torch

from appliance.core.errors import SettingsError
from appliance.core.settings import Engine as EngineSettings
from appliance.engine.bases import Base
from appliance.inference.architecture import Architecture, read_architecture
from appliance.inference.attention import Teach
from appliance.inference.engine import Engine
from appliance.inference.model import Model
from appliance.inference.vocabulary import Vocabulary
from appliance.inference.weights import load_weights

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_engine(base: Base, settings: EngineSettings) -> Engine:
    """Verify the base's bytes, read them, and lay out the caches.

    Raises:
        IntegrityError: the base was changed on disk.
        UsageError: an architecture that this engine does not run.
        SettingsError: a device that is not here, or too little memory for one sequence.
    """
    base.verify()
    shape = read_architecture(base.path)
    dtype = _DTYPES[settings.dtype]
    weights = load_weights(base.path, shape, device=_device(settings.device), dtype=dtype)
    tokens = settings.cache_tokens or _fitting_tokens(shape, settings.memory_mib, dtype)
    return Engine(
        Model(shape, weights),
        max_batch=settings.max_batch,
        slots=settings.slots,
        cache_tokens=tokens,
        vocabulary=Vocabulary.load(base.path, shape.vocab_size),
    )


def settle_threads(model: Model, wanted: int) -> int:
    """Set torch's threads: `wanted`, or the faster of one and all for this model, measured."""
    if wanted:
        torch.set_num_threads(wanted)
        return wanted
    choices = sorted({1, len(os.sched_getaffinity(0))})
    fastest = min(choices, key=lambda threads: _step_seconds(model, threads))
    torch.set_num_threads(fastest)
    return fastest


def _step_seconds(model: Model, threads: int) -> float:
    """The best of a few forward passes over as many tokens as a batch decodes."""
    torch.set_num_threads(threads)
    attend = Teach(model.shape, [1] * 16, model.device)
    ids = torch.zeros(16, dtype=torch.int64, device=model.device)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            begun = time.perf_counter()
            model.logits(model.hidden(ids, attend.positions, attend, None)).sum().item()
            seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "[engine] device is cuda, but torch sees no GPU", next_step='set it to "auto" or "cpu"'
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _fitting_tokens(shape: Architecture, memory_mib: int, dtype: torch.dtype) -> int:
    per_token = shape.num_layers * shape.kv_width * dtype.itemsize
    tokens = memory_mib * 2**20 // per_token
    if tokens < 256:
        raise SettingsError(
            f"[engine] memory_mib = {memory_mib} holds {tokens} tokens of this base; it needs 256"
        )
    return tokens
