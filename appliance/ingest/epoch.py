"""A collector's epoch: a number that no earlier start of it ever had."""

import fcntl
import time
from pathlib import Path

from appliance.core.files import publish
from appliance.core.home import Home


def next_epoch(home: Home, collector: str) -> int:
    """One more than the last epoch, and durable before it is used.

    It is also at least the time of day in seconds: if the counter's file is ever lost, new events
    are still not taken for duplicates of old ones.
    """
    path = home.run / f"{collector}.epoch"
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        last = int(path.read_text()) if path.exists() else 0
        epoch = max(last + 1, int(time.time()))
        publish(path, str(epoch).encode())
    return epoch
