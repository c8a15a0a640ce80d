"""What people say in the console goes into the log by the gateway's private door."""

from typing import Any

import pytest

from appliance.core.objects import ObjectStore
from appliance.core.open_log import open_log
from appliance.core.records import Feedback, convert
from appliance.core.tables import feedback as feedback_table
from collectors.assembly import Assembly
from tests.serving.conftest import Appliance, GatewayProcess

CORRECTION = {
    "target": {"turn_id": "chatcmpl-1"},
    "correction": "this",
    "source": "human",
    "actor": "person:bela",
}


def test_a_correction_is_in_the_log_under_the_persons_name(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    answer = gateway.admin("POST", "/feedback", CORRECTION)
    assert answer["status"] == "recorded"
    (found,) = [f for f in said(appliance) if f.feedback_id == answer["feedback_id"]]
    assert (found.actor, found.source, found.kind) == ("person:bela", "human", "correction")
    assert (found.target.turn_id, found.correction) == ("chatcmpl-1", "this")


def test_the_same_id_twice_is_one_feedback(appliance: Appliance, gateway: GatewayProcess) -> None:
    for _ in range(2):
        answer = gateway.admin("POST", "/feedback", {**CORRECTION, "feedback_id": "fb-twice"})
        assert answer == {"feedback_id": "fb-twice", "status": "recorded"}
    other = {**CORRECTION, "feedback_id": "fb-twice", "actor": "person:carl"}
    gateway.admin("POST", "/feedback", other)
    assert len([f for f in said(appliance) if f.feedback_id == "fb-twice"]) == 3
    assembly = Assembly(appliance.database, ObjectStore(appliance.home.objects))
    log = open_log(appliance.home, appliance.settings)
    try:
        while entries := log.read("counting", max_records=1000, timeout_s=0.05):
            assembly.apply(entries, now=1.0)
    finally:
        log.close()
    with appliance.database.read() as connection:
        ids = connection.execute(feedback_table.select()).scalars().all()
    assert [i for i in ids if i.endswith("/fb-twice")] == [
        "person:bela/fb-twice",
        "person:carl/fb-twice",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"actor": ""}, "actor"),
        ({"actor": "key-0123"}, "actor"),
        ({"actor": "person:"}, "actor"),
        ({"actor": None}, "actor"),
        ({"target": {}}, "target must name exactly one"),
        ({"target": {"turn_id": "a", "session": "b"}}, "target must name exactly one"),
        ({"correction": ""}, "needs 'correction'"),
        ({"kind": "outcome"}, "needs 'outcome'"),
        ({"outcome": "perhaps"}, "outcome"),
        ({"rating": 5}, "rating"),
    ],
)
def test_what_is_no_feedback_is_refused_and_not_logged(
    appliance: Appliance, gateway: GatewayProcess, change: dict[str, Any], says: str
) -> None:
    before = len(said(appliance))
    with pytest.raises(RuntimeError, match=says) as refusal:
        gateway.admin("POST", "/feedback", {**CORRECTION, **change})
    assert refusal.value.args[0] == 400
    assert len(said(appliance)) == before


def test_the_private_door_is_not_on_the_public_port(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    import http.client

    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=5)
    connection.request("POST", "/feedback", b"{}")
    assert connection.getresponse().status == 404
    connection.close()


def said(appliance: Appliance) -> list[Feedback]:
    return [convert(e.record, Feedback) for e in appliance.events() if e.kind == "feedback"]
