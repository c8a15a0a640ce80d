"""A training run: from sources to a published adapter, through any number of kills.

Same sources, threads, CPU features and versions: same adapter bytes.
"""

import ctypes
import platform
import resource
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from adapter_training.checkpoint import Checkpoint, Cursor
from adapter_training.collapse import warnings_at
from adapter_training.lora import LoraModel
from adapter_training.plan import Step, plan
from adapter_training.probe import make_probe
from adapter_training.progress import Reporter
from adapter_training.publishing import list_adapter, publish_adapter
from adapter_training.replay.rows import conversations, replay_rows
from adapter_training.rows import Row, load_rows
from adapter_training.sources import Sources
from adapter_training.steps import Trainer
from appliance.core.database import Database
from appliance.core.digests import Digest, digest_json
from appliance.core.errors import UnavailableError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.pausing import unpaused
from appliance.core.records import Adapter, encode

_CHECKPOINT_SHARE = 0.05
"""Of the time that saving may take."""
_CHECKPOINT_WITHIN_S = 300.0
"""Also where saving seemed to take hours, because the process was paused in it."""
_REPLAY_MAX_TOKENS = 256
_MIB = 1 << 20
_M_MMAP_THRESHOLD = -3
_OWN_PAGES_BYTES = 4 * _MIB


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of `train --json`."""

    adapter: Digest
    number: int
    label: str
    steps: int
    tokens: int
    loss: float
    tokens_per_s: float
    seconds: float
    peak_rss_mib: int
    warnings: dict[str, int]
    unused: dict[str, int]


def train(
    home: Home,
    database: Database,
    sources: Sources,
    work: Path,
    *,
    threads: int,
    memory_mib: int = 0,
) -> Result:
    """Train, publish and list the adapter; or go on where an earlier process was killed.

    Args:
        work: folder of this run alone: progress, curve, checkpoint.
        threads: torch threads; the adapter's bytes depend on it.
        memory_mib: stop with an error above so much resident memory, or of the GPU's where the
            model lies on one; 0 means no limit.

    Raises:
        EspalierError: as `load_rows`, `LoraModel` and `publish_adapter` say; ConflictError where
            `work` belongs to another run; UnavailableError above the memory limit.
    """
    begun = time.monotonic()
    _be_deterministic(threads)
    _give_memory_back()
    work.mkdir(parents=True, exist_ok=True)
    recipe = sources.recipe
    model = LoraModel(sources.base.path, sources.base.digest, recipe)
    device = next(iter(model.parameters().values())).device
    if device.type == "cuda":
        _bound_device_memory(device, memory_mib)
        memory_mib = 0
    if sources.parent_folder:
        model.continue_from(sources.parent_folder)
    store = ObjectStore(home.objects)
    rows, unused = load_rows(store, sources.dataset, recipe, vocabulary=model.vocabulary)
    talks = conversations(sources.base.path)
    replay = replay_rows(sources.template, talks, max_tokens=_REPLAY_MAX_TOKENS)
    steps = plan([len(r.ids) for r in rows], [len(r.ids) for r in replay], recipe)
    cursor, speed = _run(model, rows, replay, steps, sources, work, threads, memory_mib)
    probe = store.put(encode(make_probe(model, replay)))
    record = publish_adapter(
        home,
        sources.base.digest,
        model.save,
        lambda content: _describe(content, model, sources, threads, probe, cursor),
    )
    with unpaused(work):
        number = list_adapter(database, record, sources.label)
    return Result(
        adapter=record.content,
        number=number,
        label=sources.label,
        steps=len(steps),
        tokens=sum(p.num_tokens for p in cursor.curve),
        loss=cursor.curve[-1].loss,
        tokens_per_s=round(speed, 1),
        seconds=round(time.monotonic() - begun, 2),
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // _MIB,
        warnings=cursor.signs,
        unused=unused,
    )


def _run(
    model: LoraModel,
    rows: Sequence[Row],
    replay: Sequence[Row],
    steps: Sequence[Step],
    sources: Sources,
    work: Path,
    threads: int,
    memory_mib: int,
) -> tuple[Cursor, float]:
    """All steps that are not done yet; the final cursor and the tokens per second."""
    trainer = Trainer(model, rows, replay, sources.recipe, total=len(steps))
    run = _run_digest(sources, threads)
    checkpoint = Checkpoint(work, run)
    cursor = checkpoint.restore(trainer.parameters, trainer.optimizer)
    curve, signs = (list(cursor.curve), dict(cursor.signs)) if cursor else ([], {})
    due = 0.0
    with Reporter(work, curve, len(steps)) as reporter:
        for number in range(len(curve), len(steps)):
            curve.append(trainer.step(number, steps[number]))
            for sign, sentence in warnings_at(curve).items():
                if sign not in signs:
                    reporter.warn(sentence)
                signs[sign] = signs.get(sign, 0) + 1
            reporter.step(curve[-1])
            _stay_within(memory_mib)
            # How often it is saved changes nothing in the result, only what a kill costs.
            begun = time.monotonic()
            if begun >= due or number + 1 == len(steps):
                now = Cursor(run=run, curve=tuple(curve), signs=signs)
                checkpoint.save(trainer.parameters, trainer.optimizer, now)
                took = time.monotonic() - begun
                due = time.monotonic() + min(took / _CHECKPOINT_SHARE, _CHECKPOINT_WITHIN_S)
        return Cursor(run=run, curve=tuple(curve), signs=signs), reporter.tokens_per_s


def _describe(
    content: Digest,
    model: LoraModel,
    sources: Sources,
    threads: int,
    probe: Digest,
    cursor: Cursor,
) -> Adapter:
    first, last = cursor.curve[0], cursor.curve[-1]
    metrics = {
        "steps": float(len(cursor.curve)),
        "tokens": float(sum(p.num_tokens for p in cursor.curve)),
        "loss_first": first.loss,
        "loss_last": last.loss,
        "entropy_first": first.entropy,
        "entropy_last": last.entropy,
        "kl_last": next((p.divergence for p in reversed(cursor.curve) if p.divergence), 0.0),
        **{f"warned_{sign}": float(count) for sign, count in sorted(cursor.signs.items())},
    }
    return Adapter(
        content=content,
        base=sources.base.digest,
        parent=sources.parent.content if sources.parent else None,
        dataset=sources.dataset.digest,
        recipe=sources.recipe.digest,
        rank=sources.recipe.rank,
        alpha=sources.recipe.alpha,
        target_modules=model.target_modules,
        seed=sources.recipe.seed,
        num_threads=threads,
        versions=_versions(),
        probe=probe,
        metrics=metrics,
    )


def _run_digest(sources: Sources, threads: int) -> Digest:
    return digest_json(
        {
            "base": sources.base.digest,
            "dataset": sources.dataset.digest,
            "recipe": sources.recipe.digest,
            "parent": sources.parent.content if sources.parent else None,
            "threads": threads,
            "versions": _versions(),
        }
    )


def _versions() -> dict[str, str]:
    """What the adapter's bytes depend on beside the records."""
    names = ("torch", "transformers", "peft")
    return {
        **{name: version(name) for name in names},
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _be_deterministic(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # A twelfth of a step; what is read before it is written would be found by the same-bytes test.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property


def _give_memory_back() -> None:
    """Give large tensors pages of their own, which go back when they are freed.

    In glibc's heap those of a long row leave holes that the next ones do not fit: three times the
    memory, and slower. Other C libraries have no such call and no such heap.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)


def _bound_device_memory(device: torch.device, memory_mib: int) -> None:
    """Make what would go above the limit fail here, and not in the engine beside us."""
    if memory_mib:
        whole = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, memory_mib * _MIB / whole)
        torch.cuda.set_per_process_memory_fraction(share, device)


def _stay_within(memory_mib: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    used = pages * resource.getpagesize() // _MIB
    if memory_mib and used > memory_mib:
        raise UnavailableError(
            f"the trainer holds {used} MiB, [gpu] trainer_memory_mib allows {memory_mib}",
            next_step="lower batch_tokens in the recipe, or raise the limit; the run goes on from "
            "its checkpoint",
        )
