"""The broker as a pytest fixture: started once for the whole run, where its parts are installed.

Registered by ``from tests.services.fixtures import kafka_broker  # noqa: F401`` in a conftest.
Mark a test that asks for it `kafka`.
"""

import os
import warnings
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.services.broker import Broker


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """A running broker. Without its parts the test is skipped, except in CI, where it fails."""
    broker = Broker()
    if reason := broker.missing():
        missing = f"no Kafka broker here: {reason}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with warnings.catch_warnings():
        # As it is imported, kafka-python reads its schemas by a function that Python calls old.
        warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
        import_module("kafka")
    was_running = broker.status()["running"]
    broker.up()
    yield broker
    if not was_running:
        broker.down()
