"""An adapter's identity: one digest over its weights, its configuration and its base."""

from pathlib import Path

from appliance.core.digests import Digest, digest_file, digest_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECORD = "adapter.json"
"""The `records.Adapter` that says what made it. Not part of its identity: it names it."""

FILES = (WEIGHTS, CONFIG, RECORD)


def content_digest(folder: Path, base: Digest) -> Digest:
    """Digest of the adapter in `folder`, trained on `base`.

    Raises:
        FileNotFoundError: the weights or the configuration are not there.
    """
    files = {name: digest_file(folder / name) for name in (WEIGHTS, CONFIG)}
    return digest_json({"files": files, "base": base})
