"""The embedded log's files, as its tests look at them."""

from pathlib import Path

from appliance.core.embedded_log import EmbeddedLog
from appliance.core.event_log import Entry, EventLog
from appliance.core.log_frames import HEADER_BYTES

FRAME_BYTES = HEADER_BYTES + len("key") + len("value-0")


def read(log: EventLog, group: str = "reader") -> list[Entry]:
    return log.read(group, max_records=100_000, timeout_s=0)


def values(folder: Path, group: str = "reader") -> list[bytes]:
    log = EmbeddedLog(folder)
    values = [entry.value for entry in read(log, group)]
    log.close()
    return values


def segment(folder: Path) -> Path:
    return sorted(folder.glob("*.segment"))[-1]


def fill(folder: Path, count: int) -> EmbeddedLog:
    log = EmbeddedLog(folder)
    for number in range(count):
        log.append([("key", f"value-{number}".encode())])
    return log


def expected(*numbers: int) -> list[bytes]:
    return [f"value-{n}".encode() for n in numbers]
