"""Redaction of records before they touch a disk.

A redacted span breaks the token trace, so a turn that held a secret loses its token arrays: the
ids would spell the secret out.
"""

import os
import secrets
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import msgspec

from appliance.core.files import sync_folder
from appliance.core.home import Home
from appliance.core.records import Feedback, Turn
from policies import redaction

_CACHED_TEXTS = 2048
_KEY_BYTES = 32


def load_rules(home: Home) -> redaction.Rules:
    """The shipped rules, with this appliance's own tag key (made at first use)."""
    text = Path(redaction.__file__).with_suffix(".toml").read_text()
    return redaction.parse_rules(text, _tag_key(home.secrets / "redaction.key"))


class Redactor:
    """Applies the rules to whole records.

    Agents repeat their system prompt and their history in every request, so the latest texts are
    remembered, in memory only.
    """

    def __init__(self, rules: redaction.Rules) -> None:
        self._redact = lru_cache(_CACHED_TEXTS)(partial(redaction.redact, rules=rules))

    def turn(self, turn: Turn) -> Turn:
        """The turn without secrets; where there was one, also without token arrays."""
        free = {"messages": turn.messages, "tools": turn.tools, "answer": turn.answer}
        clean, found = redaction.redact_json(free, self._redact)
        if not found:
            return turn
        return msgspec.structs.replace(
            turn,
            **clean,
            prompt_ids=None,
            answer_ids=None,
            logprobs=None,
            redacted=tuple(dict.fromkeys((*turn.redacted, *found))),
        )

    def feedback(self, feedback: Feedback) -> Feedback:
        """The feedback with secrets replaced in everything that people write freely."""
        free = {
            "correction": feedback.correction,
            "comment": feedback.comment,
            "tags": feedback.tags,
        }
        clean, found = redaction.redact_json(free, self._redact)
        return msgspec.structs.replace(feedback, **clean) if found else feedback


def _tag_key(path: Path) -> bytes:
    if path.exists():
        return path.read_bytes()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    # Two programs may start at once: the first link wins, both read the winner's key.
    with suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()
    sync_folder(path.parent)
    return path.read_bytes()
