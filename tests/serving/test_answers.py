"""However the engine cuts an answer into lines, the text that is handed out is the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core.home import Home
from appliance.engine.template import Template
from appliance.engine.wire import Line
from serving.answers import Answer
from tests.serving.conftest import register_base

TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    scratch: Path = tmp_path_factory.mktemp("base")
    home = Home(scratch / "home")
    home.create()
    return Template.load(register_base(home, scratch).path)


def feed(
    template: Template,
    text: str,
    sizes: Sequence[int],
    *,
    stops: Sequence[str] = (),
    tools: Sequence[Any] = (),
) -> tuple[Answer, str]:
    """An answer fed in pieces of these sizes, round and round; and what it handed out."""
    answer = Answer(template, stops=stops, tools=tools)
    ids = [*template.encode_text(text), template.stop_ids[0]]
    sent, at, turn = "", 0, 0
    while at < len(ids):
        size = sizes[turn % len(sizes)]
        end = "stop" if at + size >= len(ids) else ""
        part = ids[at : at + size]
        sent += answer.take(Line(index=0, ids=part, logprobs=[-1.0] * len(part), finish_reason=end))
        at, turn = at + size, turn + 1
    return answer, sent


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=5)
texts = st.lists(
    st.sampled_from(["a", "\n", "é", "🌱", "<", "<tool", "<tool_call>", CALL, "STOP", "STO", "."])
).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=texts, sizes=sizes, tools=st.sampled_from([(), TOOLS]))
def test_what_was_handed_out_is_the_content(
    template: Template, text: str, sizes: list[int], tools: Sequence[Any]
) -> None:
    answer, sent = feed(template, text, sizes, tools=tools)
    assert sent == (answer.message["content"] or "")
    assert answer.text == text
    assert answer.finish_reason == ("tool_calls" if answer.tool_calls else "stop")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=texts, sizes=sizes)
def test_nothing_of_a_stop_string_is_handed_out(
    template: Template, text: str, sizes: list[int]
) -> None:
    answer, sent = feed(template, text, sizes, stops=["STOP"])
    assert sent == text.partition("STOP")[0]
    assert answer.stop == ("STOP" if "STOP" in text else "")


def test_without_tools_a_call_is_text(template: Template) -> None:
    answer, sent = feed(template, CALL, [3])
    assert sent == CALL
    assert answer.tool_calls == []


def test_text_that_cannot_be_a_call_is_not_held_back(template: Template) -> None:
    answer = Answer(template, tools=TOOLS)
    sent = [
        answer.take(Line(index=0, ids=[i], logprobs=[0.0])) for i in template.encode_text("a<t!")
    ]
    assert sent == ["a", "", "", "<t!"]


def test_half_a_character_at_the_end_is_told_as_such(template: Template) -> None:
    answer = Answer(template)
    half = template.encode_text("🌱")[:2]
    sent = answer.take(Line(index=0, ids=half, logprobs=[0.0, 0.0], finish_reason="length"))
    assert "\ufffd" in sent
    assert answer.finish_reason == "length"
