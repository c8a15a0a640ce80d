"""A schedule that cannot be followed stops nothing."""

import logging
import threading

import pytest

from appliance.control import law
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground
from appliance.control.worker import Worker
from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings


def test_without_a_law_to_judge_by_it_says_so_once_and_goes_on(
    home: Home, database: Database, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    law.change(
        database, store, kind="schedule", name="schedule", text=b"every 1 minutes", actor="olga",
        at=1.0,
    )  # fmt: skip
    stop = threading.Event()
    worker = Worker(Ground(home, Settings(), database, store), stop)
    with caplog.at_level(logging.ERROR):
        thread = threading.Thread(target=worker.run)
        thread.start()
        stop.wait(1.0)
        assert thread.is_alive(), "one law change must not end the control plane"
        stop.set()
        thread.join(10)
    said = [one.getMessage() for one in caplog.records if "schedule starts no round" in one.message]
    assert len(said) == 1
    assert "no suite is in force" in said[0]
    assert Rounds(database).under_way() is None
