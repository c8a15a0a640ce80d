"""The trainer beside serving: its turns while people ask, who asks, its time windows."""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta

import pytest

from appliance.control import show
from appliance.control.budget import Budget, People, Turns
from appliance.control.review import summary
from appliance.control.rounds import Order, Round, Rounds
from appliance.control.steps import Ground
from appliance.control.worker import Worker
from appliance.core.digests import digest_bytes
from appliance.core.home import Home
from appliance.core.settings import Gpu, Settings
from policies.lifecycle import State
from tests.control.browser import Browser
from tests.control.conftest import GATES
from tests.control.engine_socket import EngineSocket

# --- turns ----------------------------------------------------------------------------------------


def deal(turns: Turns, seconds: float, *, people: bool, start: float = 0.0) -> tuple[float, int]:
    """The share of wall time that was given, and how often it changed, at uneven ticks."""
    draw = random.Random(0)
    now, ran, changes, before = start, 0.0, 0, True
    while now < start + seconds:
        may = turns.may_run(now, people=people)
        step = draw.uniform(0.03, 0.09)
        ran += step if may else 0.0
        changes += may is not before
        now, before = now + step, may
    return ran / (now - start), changes


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_while_people_ask_the_trainer_gets_its_share_in_turns(share: float) -> None:
    given, changes = deal(Turns(share), 300, people=True)
    assert given == pytest.approx(share, abs=0.01)
    turn_s = given * 300 / (changes / 2)
    assert 0.09 < turn_s < 1.2, "turns are neither flapping nor long"


@pytest.mark.parametrize(("share", "given"), [(0.0, 0.0), (1.0, 1.0)])
def test_none_and_all(share: float, given: float) -> None:
    assert deal(Turns(share), 60, people=True) == (given, int(given == 0))


def test_it_stops_as_soon_as_people_ask_and_has_everything_when_they_are_gone() -> None:
    turns = Turns(0.2)
    assert deal(turns, 60, people=False) == (1.0, 0)
    assert not turns.may_run(61.0, people=True)
    assert turns.may_run(61.1, people=False)


def test_a_night_outside_the_windows_saves_nothing_up() -> None:
    turns = Turns(0.2)
    deal(turns, 10, people=True)
    given, _ = deal(turns, 10, people=True, start=30_000)
    assert given == pytest.approx(0.2, abs=0.1)


# --- who asks -------------------------------------------------------------------------------------


@pytest.fixture
def engine(home: Home) -> Iterator[EngineSocket]:
    engine = EngineSocket(home.socket("engine"))
    yield engine
    engine.close()


def test_people_are_there_until_a_second_after_their_last_request(engine: EngineSocket) -> None:
    found = []
    with closing(People(engine.path)) as people:
        for number, quiet_s in enumerate((None, 0.0, 0.9, 1.1, 0.0)):
            engine.says(quiet_s)
            found.append(people.ask(float(number)))
    assert found == [False, True, True, False, True]


def test_asking_costs_one_connection_and_ten_questions_a_second(engine: EngineSocket) -> None:
    begun = time.monotonic()
    with Budget(Gpu(trainer_share=0.5), engine.path) as budget:
        while time.monotonic() - begun < 1.0:
            budget.may_run()
    assert 5 <= engine.asks <= 11
    assert engine.connections == 1


def test_nobody_is_asked_by_a_trainer_that_never_yields(engine: EngineSocket) -> None:
    with Budget(Gpu(trainer_share=1.0), engine.path) as budget:
        assert budget.may_run()
    assert engine.asks == 0


def _gone(engine: EngineSocket) -> None:
    engine.close()


def _silent(engine: EngineSocket) -> None:
    engine.is_silent(threading.Event())


@pytest.mark.parametrize(
    "broken",
    [
        _gone,
        _silent,
        lambda engine: engine.answers({"running": 1}),
        lambda engine: engine.answers([1]),
        lambda engine: engine.answers(b"{"),
        lambda engine: engine.answers({"message": "it broke"}, status=500),
    ],
    ids=["gone", "silent", "an engine that does not say", "a list", "no JSON", "an error"],
)
def test_an_engine_that_does_not_answer_stops_no_training_and_is_told_of_once(
    home: Home, broken: Callable[[EngineSocket], None], caplog: pytest.LogCaptureFixture
) -> None:
    engine = EngineSocket(home.socket("engine"))
    engine.says(0.0)
    with closing(People(engine.path)) as people, caplog.at_level(logging.WARNING):
        assert people.ask(0.0)
        broken(engine)
        assert [people.ask(now) for now in (1.0, 3.5, 6.0)] == [False] * 3
        assert len(caplog.records) == 1
        assert "training goes on without yielding to people" in caplog.text
        if broken is not _gone:
            engine.close()
        engine.open()
        engine.says(0.0)
        assert people.ask(20.0), "an engine that is back is asked again"
    engine.close()


def test_an_engine_that_was_started_anew_is_found_at_once(
    engine: EngineSocket, caplog: pytest.LogCaptureFixture
) -> None:
    engine.says(0.0)
    with closing(People(engine.path)) as people:
        assert people.ask(0.0)
        engine.close()
        engine.open()
        engine.says(0.0)
        assert people.ask(1.0)
    assert not caplog.records


# --- windows --------------------------------------------------------------------------------------


def windows(*, now_open: bool) -> str:
    """An hour long, and open just now or in two hours."""
    begin = datetime.now() + timedelta(minutes=-30 if now_open else 120)
    return f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}"


def test_outside_the_windows_a_running_trainer_does_not_go_on(engine: EngineSocket) -> None:
    for now_open in (True, False):
        gpu = Gpu(windows=windows(now_open=now_open))
        with Budget(gpu, engine.path) as budget:
            assert budget.may_run() is now_open


@pytest.fixture
def training(ground: Ground) -> Round:
    """A round that comes to train."""
    rounds = Rounds(ground.database)
    digest = digest_bytes(b"nothing lies there")
    gates = ground.store.put(GATES.encode())
    order = Order(recipe=digest, gates=gates, suites={"target": digest}, idle_s=0.0)
    round_ = rounds.create(authors=("olga",), order=order, actor="olga", at=1.0)
    for state in (State.COLLECTING, State.CURATING, State.TRAINING):
        leased = rounds.lease(round_.round, owner="test", at=1.0)
        assert leased is not None
        round_ = rounds.advance(leased, state, actor="espalier", at=1.0)
    return round_


@pytest.mark.parametrize("now_open", [False, True])
def test_outside_the_windows_training_does_not_start(
    ground: Ground, training: Round, now_open: bool
) -> None:
    settings = Settings(gpu=Gpu(windows=windows(now_open=now_open)))
    ground = Ground(ground.home, settings, ground.database, ground.store)
    stop = threading.Event()
    thread = threading.Thread(target=Worker(ground, stop).run)
    thread.start()
    stop.wait(1.0)
    stop.set()
    thread.join(30)
    state = Rounds(ground.database).get(training.round).state
    # Where it does start, it finds no recipe, and fails.
    assert state is (State.FAILED if now_open else State.TRAINING)


def test_a_round_says_which_window_it_waits_for(
    ground: Ground, training: Round, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(gpu=Gpu(windows=windows(now_open=False)))
    ground = Ground(ground.home, settings, ground.database, ground.store)
    opens = settings.gpu.windows.partition("-")[0]
    line = f"waiting for the window that opens at {opens}"
    shown = summary(ground, training)
    assert shown["waits"] == line
    json.dumps(shown)
    show.rounds([shown])
    assert line in capsys.readouterr().out


def test_the_console_says_it_on_the_rounds_own_page(
    home: Home, ground: Ground, training: Round
) -> None:
    settings = Settings(gpu=Gpu(windows=windows(now_open=False)))
    ground = Ground(ground.home, settings, ground.database, ground.store)
    page = Browser.signed_in(ground, "olga", "operator").page(f"/rounds/{training.round}")
    assert "Training is waiting for the window that opens at" in page
