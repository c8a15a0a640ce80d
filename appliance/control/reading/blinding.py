"""Which side stands left in a blind comparison: drawn for each person and sample, with a secret.

Whoever reads this code and the page cannot tell the sides; the server maps the vote back.
"""

import hashlib
import hmac
import os
import threading

from appliance.control.identity import Person
from appliance.core.digests import Digest
from appliance.core.errors import UnavailableError, UsageError
from appliance.core.files import publish
from appliance.core.home import Home

SIDES = ("champion", "candidate")
CHOICES = (*SIDES, "tie")

_FILE = "blind.key"
_BYTES = 32
_lock = threading.Lock()


def order(
    home: Home, person: Person, scorecard: Digest, suite: str, item_id: str
) -> tuple[str, str]:
    """(left, right): the same for the same person and sample for ever."""
    # Lengths stand before the parts, so that no two samples are spelled alike.
    parts = (part.encode() for part in (person.name, scorecard, suite, item_id))
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    drawn = hmac.new(_key(home), message, hashlib.sha256).digest()[0]
    return ("champion", "candidate") if drawn & 1 else ("candidate", "champion")


def chosen(
    home: Home, person: Person, scorecard: Digest, suite: str, item_id: str, choice: str
) -> str:
    """What a vote is for: ``left`` and ``right`` are mapped back, a side or ``tie`` is itself.

    Raises:
        UsageError: it is none of these.
    """
    left, right = order(home, person, scorecard, suite, item_id)
    known = {"left": left, "right": right, **{one: one for one in CHOICES}}
    if choice not in known:
        raise UsageError(f"a vote is one of {', '.join(known)}, got {choice[:40]!r}")
    return known[choice]


def _key(home: Home) -> bytes:
    path = home.secrets / _FILE
    with _lock:
        if not path.exists():
            publish(path, os.urandom(_BYTES), mode=0o600)
        key = path.read_bytes()
    if len(key) != _BYTES:
        raise UnavailableError(
            f"{path} should hold {_BYTES} bytes, it holds {len(key)}",
            next_step="remove the file; blind comparisons are drawn anew",
        )
    return key
