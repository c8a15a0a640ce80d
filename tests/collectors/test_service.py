"""The process: its private API, a full disk, kill -9 over a recorded input, two at once."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.core.database import Database
from appliance.core.errors import ConflictError, UnavailableError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Target, Trajectory, decode
from appliance.core.settings import Settings
from appliance.core.tables import trajectories
from appliance.ingest import Ingest
from collectors.collector import Collector, collecting
from collectors.service import serve

ROOT = Path(__file__).parents[2]


def ask(home: Home, method: str, route: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(home.socket("collectors")))
    connection.request(method, route, None if body is None else json.dumps(body))
    response = connection.getresponse()
    value = json.loads(response.read())
    connection.close()
    return response.status, value


@pytest.fixture
def serving(home: Home) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(home, Settings()), kwargs={"stop": stop})
    thread.start()
    deadline = time.monotonic() + 20
    while not home.socket("collectors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("serving")
def test_the_private_api(home: Home, ingest: Ingest, make: Any) -> None:
    ingest.turn(*make.gold("a", [1], [2], session="s"))
    status, flushed = ask(home, "POST", "/flush", {"idle_s": None})
    assert (status, flushed["sealed"], flushed["open"]) == (200, 0, 1)
    status, flushed = ask(home, "POST", "/flush", {"idle_s": 0})
    assert (status, flushed["sealed"], flushed["open"]) == (200, 1, 0)
    assert flushed["position"] == flushed["end"]
    assert ask(home, "GET", "/position")[1]["position"] == flushed["position"]
    status, health = ask(home, "GET", "/health")
    assert (status, health["ok"], health["turns"], health["sealed"]) == (200, True, 1, 1)
    assert ask(home, "POST", "/flush", {"idle": 0})[0] == 400
    assert ask(home, "POST", "/flush", "text")[0] == 400
    assert ask(home, "GET", "/nothing")[0] == 404
    assert home.socket("collectors").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("serving")
def test_one_collector_per_home(home: Home) -> None:
    with pytest.raises(ConflictError), collecting(home):
        pass


def test_a_full_disk_stops_nothing_and_loses_nothing(
    ingest: Ingest, collector: Collector, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.turn(*make.gold("a", [1], [2], session="s"))

    def full(self: ObjectStore, items: Any) -> Any:
        raise UnavailableError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put_many", full)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                collector.step(timeout_s=1.0)
    assert collector.flush(0.0).sealed == 1
    assert collector.totals.turns == 1


def test_kill_9_at_any_moment_loses_and_doubles_nothing(
    home: Home, ingest: Ingest, make: Any
) -> None:
    """The input is recorded first; then the process is killed again and again while it works."""
    num_sessions, num_turns = 60, 3
    for number in range(num_sessions * num_turns):
        step = number // num_sessions
        prompt, session = list(range(1, 2 + 2 * step)), f"s{number % num_sessions}"
        name = f"{session}-{step}"
        ingest.turn(
            *make.gold(name, prompt, [2 * step + 2], session=session, at=float(number)), wait=False
        )
    ingest.flush()
    for number in range(num_sessions):
        ingest.seal(Target(session=f"s{number}"))
    moments = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "collectors", "serve", "--home", str(home.root)], cwd=ROOT
        )
        deadline = time.monotonic() + 30
        while not home.socket("collectors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        home.socket("collectors").unlink(missing_ok=True)
    with collecting(home):
        collector = Collector(home, Settings())
        collector.flush(0.0)
        collector.close()
    database, store = Database.open(home.database), ObjectStore(home.objects)
    with database.read() as connection:
        rows = connection.execute(trajectories.select().order_by("version")).all()
    database.close()
    newest = {row.trajectory_id: decode(store.get(row.object), Trajectory) for row in rows}
    assert len(newest) == num_sessions
    for one in newest.values():
        session = one.nodes[0].turn.session
        assert [n.turn.turn_id for n in one.nodes] == [f"{session}-{i}" for i in range(num_turns)]
        assert [n.parent for n in one.nodes] == [None, 0, 1]
