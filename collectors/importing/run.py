"""`espalier import FILE…`: reads files in, and sees to it that afterwards they are there.

Where the collectors are running, they take the events in; otherwise this process does, by the same
code, under the same lock.
"""

import http.client
import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.core.errors import ConflictError, UnavailableError
from appliance.core.home import Home
from appliance.core.settings import Settings
from appliance.ingest import Ingest
from collectors.collector import Collector, collecting
from collectors.importing.importer import FileReport, Importer, Source

_WAIT_S = 300.0


def import_files(
    home: Home, settings: Settings, paths: Sequence[Path], source: Source
) -> list[FileReport]:
    """Import every file; a bad one does not keep the others out. Reports in the order given.

    Raises:
        UnavailableError: the event log takes nothing. Import the same files again: what was taken
            in is not doubled.
    """
    home.create()
    ingest = Ingest(home, settings, collector="import")
    try:
        importer = Importer(home, ingest, source)
        reports = [importer.import_file(path) for path in paths]
    finally:
        ingest.close()
    if any(report.trajectories for report in reports):
        settle(home, settings)
    return reports


def settle(home: Home, settings: Settings) -> None:
    """Return once everything in the event log is in the lake, as far as it has ended.

    Raises:
        UnavailableError: the process that collects does not answer.
    """
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            with collecting(home):
                collector = Collector(home, settings)
                try:
                    collector.flush(settings.assembly.idle_s)
                finally:
                    collector.close()
            return
        except ConflictError:
            pass
        # Whoever holds the lock serves, or is another import that will be done soon.
        try:
            _ask_to_flush(home.socket("collectors"))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "the events are in the log, but the collectors do not answer",
                    next_step="espalier doctor",
                ) from error
        time.sleep(0.2)


def _ask_to_flush(path: Path) -> None:
    connection = http.client.HTTPConnection("localhost", timeout=_WAIT_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(_WAIT_S)
        connection.sock.connect(str(path))
        connection.request("POST", "/flush", json.dumps({"idle_s": None}))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise UnavailableError(f"the collectors could not flush: {body[:300]!r}")
