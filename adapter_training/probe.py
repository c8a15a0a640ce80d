"""The logprob probe: what the trainer itself computes, so that serving can prove what it loaded."""

from msgspec import structs

from adapter_training.lora import LoraModel
from adapter_training.passes import logprobs_of
from adapter_training.rows import Row
from appliance.core.records import Probe

_NUM_PROMPTS = 4
_MAX_TOKENS = 48


def make_probe(model: LoraModel, replay: list[Row]) -> Probe:
    """Teacher-forced float32 logprobs with and without the adapter, one prompt at a time.

    The prompts are the first of the base's replay, so all adapters of a base share them.
    """
    cut = [structs.replace(row, ids=row.ids[:_MAX_TOKENS]) for row in replay[:_NUM_PROMPTS]]
    tuned = [logprobs_of(model, row) for row in cut]
    with model.as_base():
        base = [logprobs_of(model, row) for row in cut]
    return Probe(
        ids=tuple(tuple(row.ids.tolist()) for row in cut),
        logprobs=tuple(map(tuple, tuned)),
        base_logprobs=tuple(map(tuple, base)),
    )
