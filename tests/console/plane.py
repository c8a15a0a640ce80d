"""The real control plane as a process of its own, over a home."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.core.home import Home

_READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Plane:
    """Where it listens, and its process."""

    url: str
    pid: int
    home: Home


@contextmanager
def control_plane(home: Home, **settings: str) -> Iterator[Plane]:
    """Start it on a free port; `settings` such as ``CONTROL__URL`` override espalier.toml."""
    port = _free_port()
    environment = {
        **os.environ,
        **{f"ESPALIER__{name}": value for name, value in settings.items()},
        "ESPALIER_HOME": str(home.root),
        "ESPALIER__CONTROL__PORT": str(port),
    }
    log = home.process_logs / "control.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "appliance.control", "serve"],
            stdout=file,
            stderr=file,
            env=environment,
        )
    try:
        _wait(port, process)
        yield Plane(f"http://127.0.0.1:{port}", process.pid, home)
    except TimeoutError as error:
        raise RuntimeError(f"{error}: {log.read_text()[-2000:]}") from None
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/livez")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise TimeoutError("the control plane did not become ready")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
