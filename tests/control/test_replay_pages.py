"""A past turn, asked again as the agent sent it."""

import html
from typing import Any

import pytest
import sqlalchemy as sa

from appliance.control.steps import Ground
from appliance.core.records import Node, Sampling, Trajectory, Turn, Who, encode
from appliance.core.tables import trajectories
from tests.control.browser import Browser
from tests.control.talking import BASE, cards, fields, says, state_of
from tests.serving.conftest import Appliance
from tests.serving.engine_simulator import EngineSimulator


@pytest.fixture
def ground(served: Ground) -> Ground:
    return served


def replayable(ground: Ground, messages: list[Any], label: str = "internal", **change: Any) -> str:
    """A sealed trajectory of one turn."""
    turn = Turn(
        turn_id="t1", who=Who(key_id="k", team="t", project="p", agent="a"), label=label,
        session=None, base=None, adapter=None, template=None, messages=tuple(messages),
        answer={"role": "assistant", "content": "ok"}, finish_reason="stop",
        sampling=Sampling(temperature=0.25, max_tokens=33), prompt_ids=None, answer_ids=None,
        logprobs=None, started_at=1.0, ended_at=2.0, **change,
    )  # fmt: skip
    node = Node(turn=turn, parent=None, tier="silver", trainable=True)
    sealed = Trajectory(
        trajectory_id="traj-1", version=1, who=turn.who, label=label, nodes=(node,), tier="silver",
        outcome="unknown", feedback=(), sealed_at=3.0,
    )  # fmt: skip
    row = {
        "trajectory_id": "traj-1", "version": 1, "state": "sealed", "key_id": "k", "team": "t",
        "project": "p", "agent": "a", "label": label, "tier": "silver", "outcome": "unknown",
        "num_turns": 1, "object": ground.store.put(encode(sealed)), "last_turn_at": 2.0,
        "changed_at": 3.0, "sealed_at": 3.0,
    }  # fmt: skip
    with ground.database.write() as connection:
        connection.execute(sa.insert(trajectories).values(row))
    return "/talk?trajectory=traj-1&node=0"


def test_a_past_turn_is_replayed_in_the_form(ground: Ground, olga: Browser) -> None:
    system = {"role": "system", "content": "be kind"}
    path = replayable(ground, [system, {"role": "user", "content": "and now?"}])
    page = olga.page(path)
    for kept in ("be kind", "and now?", 'value="0.25"', 'value="33"', 'name="trajectory"'):
        assert kept in page
    assert 'name="node"' not in page
    olga.page("/talk?trajectory=traj-1&node=1", 404)
    olga.page("/talk?trajectory=traj-2&node=0", 404)
    paul = Browser.signed_in(ground, "pia", "operator", "public")
    paul.page(path, 404)


def test_a_turn_with_tools_is_replayed_exactly(
    ground: Ground, olga: Browser, engine: EngineSimulator, appliance: Appliance
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    past = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    page = olga.page(replayable(ground, past, tools=(tool,)))
    assert 'name="node" value="0"' in page
    assert "3 messages as the agent sent them" in page
    order = fields(says("seen"), BASE, trajectory="traj-1", node="0")
    answer = olga.post("/talk", order)
    assert "seen" in cards(answer.text)[0]
    prompt = appliance.template.decode(engine.requests[-1].prompt_ids)
    whole = [*past, {"role": "user", "content": says("seen")}]
    assert prompt == appliance.template.decode(appliance.template.encode(whole, (tool,)))
    kept = olga.post(
        "/suites/keep",
        {"asked": state_of(answer.text)["asked"][0], "side": "0", "keep0-new": "replayed",
         "keep0-expected": "seen"},
    )  # fmt: skip
    assert kept.status_code == 303, kept.text
    (item,) = olga.api("GET", "/suites/replayed").json()["items"]
    assert item["messages"] == whole


def test_what_is_above_the_endpoints_label_is_not_asked_again(ground: Ground) -> None:
    path = replayable(ground, [{"role": "user", "content": "secret"}], label="secret")
    sam = Browser.signed_in(ground, "sam", "operator", "secret")
    assert "above the endpoint" in html.unescape(sam.page(path, 403))
