"""The log's disk is full: the gateway says so, loses nothing, and goes on when there is room."""

import time

import openai
import pytest

from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say


def test_a_full_disk_is_told_and_loses_nothing(
    client: openai.OpenAI, appliance: Appliance, gateway: GatewayProcess
) -> None:
    before = len(appliance.events())
    limits = gateway.limit_file_size(1)
    try:
        # Its answer was there when the disk was found full; the turn waits in the queue.
        kept = client.chat.completions.create(model=ALIAS, messages=say("kept"))
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=ALIAS, messages=say("refused"))
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.InternalServerError):
            client.post(
                "/feedback",
                body={"target": {"session": "s"}, "outcome": "ok"},
                cast_to=object,
            )
    finally:
        gateway.limit_file_size(limits)
    deadline = time.monotonic() + 5
    while not appliance.turns(kept.id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    after = client.chat.completions.create(model=ALIAS, messages=say("after"))
    assert [turn.answer["content"] for turn in appliance.turns(after.id)] == ["after"]
    assert len(appliance.events()) == before + 2
