import pytest

from appliance.core.digests import digest_json
from appliance.core.errors import ConflictError, NotFoundError
from appliance.engine.residents import Residents

A, B, C = (digest_json(name) for name in "abc")


def test_a_slot_is_freed_when_its_last_holder_lets_go():
    residents = Residents(2)
    slot = residents.hold(A, "gateway")
    assert residents.hold(A, "evaluation") == slot
    assert residents.release(A, "gateway").freed == []
    assert residents.release(A, "evaluation").freed == [A]
    assert A not in residents


def test_what_is_in_use_is_freed_later():
    residents = Residents(1)
    residents.hold(A, "gateway")
    residents.use(A)
    assert residents.release(A, "gateway").deferred == [A]
    assert A in residents
    residents.end(A)
    assert A not in residents


def test_holding_again_keeps_what_was_to_be_freed():
    residents = Residents(1)
    residents.hold(A, "gateway")
    residents.use(A)
    residents.release(A, "gateway")
    residents.hold(A, "gateway")
    residents.end(A)
    assert A in residents


def test_a_holder_lets_go_of_all_that_it_holds():
    residents = Residents(3)
    residents.hold(A, "evaluation")
    residents.hold(B, "evaluation")
    residents.hold(C, "gateway")
    assert residents.release(None, "evaluation").freed == [A, B]
    assert residents.digests == [C]


def test_no_slot_is_taken_from_anybody():
    residents = Residents(1)
    residents.hold(A, "gateway")
    with pytest.raises(ConflictError, match="held by gateway"):
        residents.hold(B, "gateway")


def test_an_adapter_that_is_not_resident_answers_nothing():
    with pytest.raises(NotFoundError, match="not resident"):
        Residents(1).use(A)
