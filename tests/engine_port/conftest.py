"""One suite, three engines: `engine` is each of them in turn, started once for the whole run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.engine_port import engines
from tests.engine_port.engines import UnderTest
from tests.services.vllm import VllmError

NEEDS_VLLM = [pytest.mark.vllm, pytest.mark.timeout(900)]
"""Whoever is first waits for its start: imports of a minute or two, more on a busy machine."""
_NAMES = ("simulator", "embedded", "vllm")


class Running:
    """The engines that were started so far."""

    def __init__(self, factory: pytest.TempPathFactory, stack: ExitStack) -> None:
        self._factory, self._stack = factory, stack
        self._engines: dict[str, UnderTest] = {}

    def get(self, name: str) -> UnderTest:
        if name not in self._engines:
            start = getattr(engines, name)
            folder = self._factory.mktemp(name)
            try:
                self._engines[name] = self._stack.enter_context(start(folder))
            except VllmError as error:
                if os.environ.get("CI") == "true":
                    pytest.fail(f"no vLLM here: {error}")
                pytest.skip(f"no vLLM here: {error}")
        return self._engines[name]


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(tmp_path_factory, stack)


@pytest.fixture(params=["simulator", "embedded", pytest.param("vllm", marks=NEEDS_VLLM)])
def engine(request: pytest.FixtureRequest, running: Running) -> Iterator[UnderTest]:
    under_test = running.get(request.param)
    yield under_test
    under_test.give_back()


@pytest.fixture
def vllm(running: Running) -> Iterator[UnderTest]:
    under_test = running.get("vllm")
    yield under_test
    under_test.give_back()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The suite as a table: a row for each promise, a column for each engine."""
    rows: dict[str, dict[str, str]] = {}
    for outcome, sign in (("passed", "holds"), ("failed", "BROKEN"), ("skipped", "skipped")):
        for report in terminalreporter.getreports(outcome):
            name, found, words = report.nodeid.partition("[")
            engine = words.rstrip("]").rpartition("-")[2]
            if "engine_port" not in name or not found or engine not in _NAMES:
                continue
            promise = name.rpartition("::test_")[2].replace("_", " ")
            rows.setdefault(promise, {})[engine] = sign
    if not rows:
        return
    width = max(map(len, rows))
    terminalreporter.section("the Engine port's promises")
    terminalreporter.line(" " * width + "".join(f"  {name:>9}" for name in _NAMES))
    for promise, signs in rows.items():
        line = "".join(f"  {signs.get(name, ''):>9}" for name in _NAMES)
        terminalreporter.line(f"{promise:<{width}}{line}")
