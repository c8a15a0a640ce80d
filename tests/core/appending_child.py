"""A process that appends until its input ends, and prints each id only once it is acknowledged.

    appending_child.py embedded FOLDER | kafka BOOTSTRAP TOPIC

A line of its output is an id, or `refused` and the error. Threads share the log, so that group
commits really hold several callers' records. Thread T writes key ``kT`` with ids ``T-0``, ``T-1``…
"""

import sys
import threading
from pathlib import Path

from appliance.core.errors import UnavailableError
from appliance.core.event_log import EventLog

_THREADS = 3


def _open(kind: str, *where: str) -> EventLog:
    if kind == "kafka":
        from appliance.core.kafka_log import KafkaLog

        return KafkaLog(where[0], topic=where[1], num_partitions=3)
    from appliance.core.embedded_log import EmbeddedLog

    return EmbeddedLog(Path(where[0]), segment_bytes=4096)


def _append(log: EventLog, thread: int, stop: threading.Event, printing: threading.Lock) -> None:
    number = 0
    while not stop.is_set():
        ids = [f"{thread}-{number + i}" for i in range(1 + number % 3)]
        number += len(ids)
        try:
            log.append([(f"k{thread}", one.encode()) for one in ids])
            lines = ids
        except UnavailableError as error:
            lines = [f"refused {error.message}"]
        with printing:
            print("\n".join(lines), flush=True)


def main() -> None:
    """Append until standard input ends."""
    log = _open(*sys.argv[1:])
    stop, printing = threading.Event(), threading.Lock()
    threads = [
        threading.Thread(target=_append, args=(log, thread, stop, printing), daemon=True)
        for thread in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    log.close()


if __name__ == "__main__":
    main()
