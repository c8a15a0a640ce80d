"""The broker as a pytest fixture: fetched and started once for the whole run.

Registered by ``from tests.services.fixtures import kafka_broker  # noqa: F401`` in a conftest.
Mark a test that asks for it `kafka`.
"""

import os
import warnings
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.services.broker import Broker, BrokerError


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """A running broker. Where it cannot be had, tests are skipped; in CI they fail."""
    broker = Broker()
    was_running = broker.status()["running"]
    try:
        broker.up()
    except BrokerError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Kafka broker here: {error}")
        pytest.skip(f"no Kafka broker here: {error}")
    with warnings.catch_warnings():
        # As it is imported, kafka-python reads its schemas by a function that Python calls old.
        warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
        import_module("kafka")
    yield broker
    if not was_running:
        broker.down()
