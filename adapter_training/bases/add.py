"""`base add`: a folder is registered as it is, a GGUF file is converted first."""

import tempfile
from pathlib import Path

from adapter_training.bases.gguf import convert_gguf
from adapter_training.bases.runnable import require_runnable
from appliance.core.errors import UsageError
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry, refuse_pickle


def add_base(home: Home, source: Path, name: str | None) -> Base:
    """Register a Hugging Face causal LM by its content.

    Raises:
        UsageError: neither a folder nor a .gguf file, a model that engine or trainer does not
            compute, or the registry refuses what is in it.
    """
    registry = Registry(home)
    if source.is_dir():
        refuse_pickle(source)
        require_runnable(source, source=source)
        return registry.add_directory(source, name or source.resolve().name, origin=source.name)
    if not source.is_file():
        raise UsageError(
            f"expected a folder or a .gguf file, and there is no {source}",
            next_step="espalier base add DIR, or espalier base add FILE.gguf",
        )
    if source.suffix != ".gguf":
        raise UsageError(
            f"expected a folder or a .gguf file, got {source}",
            next_step="give the folder that holds config.json and the safetensors weights",
        )
    with tempfile.TemporaryDirectory(dir=home.bases, prefix=".convert.") as work:
        convert_gguf(source, Path(work))
        require_runnable(Path(work), source=source)
        return registry.add_directory(Path(work), name or source.stem, origin=source.name)
