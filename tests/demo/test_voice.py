"""The time left: what is typical, at the pace so far."""

import pytest

from appliance.demo.memory import MemoryMeter
from appliance.demo.voice import Voice

STAGES = [("law", 10.0), ("round 1", 100.0), ("poison", 50.0), ("account", 20.0)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("appliance.demo.voice.time.monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_pace(clock: list[float]) -> None:
    voice = Voice(MemoryMeter())
    voice.expect(STAGES)
    assert voice.left_s is None
    voice.reach("law")
    assert voice.left_s == 180
    clock[0] += 20  # twice what is typical
    voice.reach("round 1")
    assert voice.left_s == 340
    clock[0] += 50
    assert voice.left_s == 290
    clock[0] += 1000  # never below nothing, and what follows is still to come
    assert voice.left_s == 140


def test_a_stage_may_be_left_out_or_come_unforeseen(clock: list[float]) -> None:
    voice = Voice(MemoryMeter())
    voice.expect(STAGES)
    voice.reach("law")
    clock[0] += 10
    voice.reach("round 1")
    clock[0] += 100
    voice.reach("round 2")
    assert voice.left_s == 70
    voice.reach("account")
    assert voice.left_s == 20


def test_what_is_said_begins_with_time_and_memory(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    voice = Voice(MemoryMeter())
    voice.expect(STAGES)
    voice.reach("law")
    clock[0] += 3
    voice.say("written")
    assert capsys.readouterr().err == "[  3.0 s, about 177 s left, 0.0 GiB]  written\n"
