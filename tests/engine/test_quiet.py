"""For how long nobody has asked interactively: what counts as a request of people, and when."""

import time

import pytest

from appliance.engine.quiet import Quiet
from appliance.engine.wire import Generate

_PERSON = Generate(prompt_ids=[1])
_BATCH = Generate(prompt_ids=[1], priority="batch")


def test_nobody_has_asked_yet() -> None:
    assert Quiet().seconds is None


def test_it_is_not_quiet_while_any_request_of_people_is_under_way() -> None:
    quiet = Quiet()
    with quiet.during(_PERSON):
        with quiet.during(_PERSON):
            assert quiet.seconds == 0
        assert quiet.seconds == 0
    time.sleep(0.02)
    assert 0.02 <= (quiet.seconds or 0) < 5


def test_batch_class_work_is_nobody() -> None:
    quiet = Quiet()
    with quiet.during(_BATCH):
        assert quiet.seconds is None
    assert quiet.seconds is None


def test_a_request_that_failed_has_ended() -> None:
    quiet = Quiet()
    with pytest.raises(OSError, match="left"), quiet.during(_PERSON):
        raise OSError("the client has left")
    assert (quiet.seconds or 0) > 0
