"""`make-tiny`: train the tiny base once, keep it in the cache, register it in a home.

A base is found in the cache (bases/cache.py) by the digest of everything that decides it: the
making, the lexicon, the code, the version of torch. It has no chat template of its own; the
registry gives it ours.
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapter_training.bases.cache import cache_folder
from adapter_training.tiny.corpus import replay
from adapter_training.tiny.lexicon import load_lexicon
from adapter_training.tiny.tokenizer import END, PAD, START, build_tokenizer
from appliance.core.digests import Digest, digest_files, digest_json, short
from appliance.core.files import sync_folder
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry

if TYPE_CHECKING:
    from adapter_training.tiny.pretrain import Making

NAME = "tiny"
_SOURCES = ("corpus.py", "lexicon.py", "lexicon.toml", "pretrain.py", "tokenizer.py")
_FILES = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "replay.jsonl",
)
_SEAL = "seal.json"


def make_tiny(home: Home, *, seed: int = 0) -> Base:
    """The tiny base of this seed, registered as ``tiny``; trained where the cache has none.

    Raises:
        UnavailableError: the disk is full.
    """
    from adapter_training.tiny.pretrain import Making

    making = Making(seed=seed)
    folder = cached(making, cache_folder())
    return Registry(home).add_directory(folder, NAME, origin=f"make-tiny, seed {seed}")


def cached(making: "Making", cache: Path) -> Path:
    """The folder of this making in the cache, trained now if it is not there whole."""
    folder = cache / f"tiny-{short(_identity(making))}"
    if _is_whole(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=cache, prefix=".tiny-"))
    try:
        _make(making, work)
        seal = {"files": digest_files(work, _FILES), "making": msgspec.to_builtins(making)}
        (work / _SEAL).write_text(json.dumps(seal, indent=2) + "\n")
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            work.rename(folder)
            sync_folder(cache)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _identity(making: "Making") -> Digest:
    return digest_json(
        {
            "making": msgspec.to_builtins(making),
            "sources": digest_files(Path(__file__).parent, _SOURCES),
            "torch": version("torch"),
        }
    )


def _is_whole(folder: Path) -> bool:
    try:
        seal = json.loads((folder / _SEAL).read_text())
        return bool(seal["files"] == digest_files(folder, _FILES))
    except (OSError, ValueError, KeyError):
        return False


def _make(making: "Making", folder: Path) -> None:
    from adapter_training.tiny.pretrain import pretrain

    lexicon = load_lexicon()
    tokenizer = build_tokenizer(lexicon)
    with _bar() as bar:
        task = bar.add_task("making the tiny base", total=making.steps, loss=0.0)
        model = pretrain(
            making,
            lexicon,
            tokenizer,
            lambda done, loss: bar.update(task, completed=done, loss=loss),
        )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [START, END],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    talks = replay(lexicon, making.seed, making.num_replay)
    lines = [json.dumps({"messages": messages}) + "\n" for messages in talks]
    (folder / "replay.jsonl").write_text("".join(lines))


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
