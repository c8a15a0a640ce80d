"""The registry of bases: directories that are named by the digest of what is in them.

A base is weights, configuration, tokenizer and chat template; change one and it is another base.
What is not here: making, fetching or converting a base (adapter_training).
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from appliance.core.digests import Digest, digest_files, short
from appliance.core.errors import IntegrityError, NotFoundError, RecordError, UsageError
from appliance.core.files import publish, sync_folder
from appliance.core.home import Home
from appliance.core.records import Record, convert, encode
from appliance.engine import safetensors_file
from appliance.engine.template import carries_tools, espalier_template

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
RECORD = "base.json"
REPLAY = "replay.jsonl"

_DIGESTED = (WEIGHTS, CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, GENERATION_CONFIG)
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


class BaseRecord(Record, frozen=True, kw_only=True):
    """What ``base.json`` says."""

    schema: Literal["base/1"] = "base/1"
    digest: Digest
    name: str
    """The name that it was first registered under."""
    origin: str
    architecture: str
    context_length: int
    vocab_size: int
    template: Literal["own", "espalier"]
    """Whose chat template it carries: the model's own, or ours because that one has no tools."""


@dataclass(frozen=True, slots=True)
class Base:
    """A registered base and where it lies."""

    path: Path
    record: BaseRecord

    @property
    def digest(self) -> Digest:
        """Digest of weights, configuration, tokenizer and chat template."""
        return self.record.digest

    @property
    def name(self) -> str:
        """The name that it was first registered under."""
        return self.record.name

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.record.context_length

    @property
    def replay(self) -> Path | None:
        """General conversations, one ``{"messages": […]}`` a line, that keep an adapter honest."""
        path = self.path / REPLAY
        return path if path.exists() else None

    def verify(self) -> None:
        """Raise IntegrityError unless the bytes on disk are what the digest says."""
        if _digest(self.path) != self.digest:
            raise IntegrityError(
                f"base {self.name} ({short(self.digest)}) was changed on disk",
                next_step="register it again from where it came from",
            )


class Registry:
    """The bases of one home, by digest and by name."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def get(self, name_or_digest: str) -> Base:
        """A base by name, full digest, or at least 8 first hex digits.

        Raises:
            NotFoundError: nothing here answers to it.
        """
        names = self._names()
        if name_or_digest in names:
            return self._load(names[name_or_digest])
        wanted = name_or_digest.removeprefix("sha256:")
        found = [
            base for base in self.all() if base.digest.removeprefix("sha256:").startswith(wanted)
        ]
        if len(wanted) >= 8 and len(found) == 1:
            return found[0]
        raise NotFoundError(
            f"no base {name_or_digest!r}; known: {', '.join(sorted(names)) or 'none'}",
            next_step="espalier base make-tiny, or espalier base add DIR",
        )

    def all(self) -> list[Base]:
        """Every base, by name."""
        bases = [self._read(path.parent) for path in self._home.bases.glob(f"*/{RECORD}")]
        return sorted(bases, key=lambda base: base.name)

    def add_directory(self, path: Path, name: str, origin: str) -> Base:
        """Copy a Hugging Face causal LM in, and point `name` at it.

        Takes safetensors only (shards are joined). The chat template stays if it can carry tool
        calls; otherwise ours takes its place. The same content twice is one base with two names.

        Raises:
            UsageError: not a causal LM, no tokenizer.json, or pickled weights.
            IntegrityError: the weights are damaged.
        """
        if not path.is_dir():
            raise UsageError(f"expected a folder with a Hugging Face model, got {path}")
        refuse_pickle(path)
        shards = _shards(path)
        with self._locked():
            work = Path(tempfile.mkdtemp(dir=self._home.bases, prefix=".add."))
            try:
                record = _assemble(path, shards, work, name, origin)
                target = self._home.base(record.digest)
                if not target.exists():
                    work.rename(target)
                    sync_folder(self._home.bases)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            names = {**self._names(), name: record.digest}
            publish(self._home.bases / "names.json", msgspec.json.encode(names))
        return self._load(record.digest)

    def _load(self, digest: Digest) -> Base:
        path = self._home.base(digest)
        if not (path / RECORD).exists():
            raise NotFoundError(f"base {short(digest)} is not in {self._home.bases}")
        return self._read(path)

    def _read(self, path: Path) -> Base:
        return Base(path, convert(_json_object(path / RECORD), BaseRecord))

    def _names(self) -> dict[str, Digest]:
        path = self._home.bases / "names.json"
        return (
            msgspec.json.decode(path.read_bytes(), type=dict[str, Digest]) if path.exists() else {}
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._home.bases.mkdir(parents=True, exist_ok=True)
        with (self._home.bases / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def refuse_pickle(path: Path) -> None:
    """Raise UsageError where a folder holds a file that runs code when it is read."""
    pickles = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _PICKLES)
    if pickles:
        raise UsageError(
            f"{path} holds pickled files ({', '.join(pickles[:3])}); reading them runs code",
            next_step="save the model as safetensors, take the pickled files away, add it again",
        )


def _shards(path: Path) -> list[Path]:
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    shards = sorted(path.glob("model-*-of-*.safetensors"))
    if not shards:
        raise UsageError(
            f"{path} has no {WEIGHTS}",
            next_step="add a folder with safetensors weights, or a GGUF file",
        )
    if len(shards) != int(shards[0].stem.rpartition("-")[2]):
        raise IntegrityError(f"{path} has {len(shards)} weight files of {shards[0].stem[-5:]}")
    return shards


def _assemble(path: Path, shards: list[Path], work: Path, name: str, origin: str) -> BaseRecord:
    """Put the base together in `work`; return its record, written there too."""
    config = _json_object(path / CONFIG)
    architectures = config.get("architectures") or ["none"]
    if not str(architectures[0]).endswith("ForCausalLM"):
        raise UsageError(
            f"{path} is not a causal language model: its config says {architectures[0]}"
        )
    if not (path / TOKENIZER).exists():
        raise UsageError(
            f"{path} has no {TOKENIZER}",
            next_step="save its fast tokenizer there with save_pretrained",
        )
    if len(shards) == 1:
        safetensors_file.read_header(shards[0])
        shutil.copyfile(shards[0], work / WEIGHTS)
    else:
        safetensors_file.join(shards, work / WEIGHTS)
    for optional in (TOKENIZER, CONFIG, GENERATION_CONFIG, REPLAY):
        if (path / optional).exists():
            shutil.copyfile(path / optional, work / optional)
    template = _settle_template(path, work)
    record = BaseRecord(
        digest=_digest(work),
        name=name,
        origin=origin,
        architecture=architectures[0],
        context_length=int(config.get("max_position_embeddings", 2048)),
        vocab_size=int(config["vocab_size"]),
        template=template,
    )
    (work / RECORD).write_bytes(encode(record))
    for file in work.iterdir():
        _make_durable(file)
    sync_folder(work)
    return record


def _settle_template(path: Path, work: Path) -> Literal["own", "espalier"]:
    """Write the one chat template, and a tokenizer configuration that holds no second one."""
    settings = _json_object(path / TOKENIZER_CONFIG) if (path / TOKENIZER_CONFIG).exists() else {}
    inline = settings.pop("chat_template", None)
    file = path / CHAT_TEMPLATE
    own = file.read_text() if file.exists() else _default_of(inline)
    (work / TOKENIZER_CONFIG).write_bytes(
        msgspec.json.format(msgspec.json.encode(settings), indent=2)
    )
    if own is not None and carries_tools(own, settings):
        (work / CHAT_TEMPLATE).write_text(own)
        return "own"
    (work / CHAT_TEMPLATE).write_text(espalier_template(work / TOKENIZER, settings))
    return "espalier"


def _default_of(inline: Any) -> str | None:
    """A template in tokenizer_config.json: one text, or a list of named ones."""
    if isinstance(inline, list):
        named = {entry["name"]: entry["template"] for entry in inline}
        inline = named.get("tool_use", named.get("default"))
    return inline if isinstance(inline, str) else None


def _digest(path: Path) -> Digest:
    return digest_files(path, [name for name in _DIGESTED if (path / name).exists()])


def _json_object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise UsageError(f"{path.parent} has no {path.name}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not a JSON object: {error}") from error


def _make_durable(file: Path) -> None:
    file.chmod(0o444)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
