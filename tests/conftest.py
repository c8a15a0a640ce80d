"""What every test shares: an empty home, and real parts where they are installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def database(home: Home) -> Iterator[Database]:
    database = Database.open(home.database)
    yield database
    database.close()


@pytest.fixture
def store(home: Home) -> ObjectStore:
    return ObjectStore(home.objects)
