"""What a refusal says, in words that need no second reading."""

import json

import pytest

from serving.openai.responses_wire import parse_response
from serving.openai_errors import ApiError


@pytest.mark.parametrize(
    ("name", "value"),
    [("background", True), ("previous_response_id", "resp-1"), ("conversation", {"id": "c"})],
)
def test_a_field_that_is_not_supported(name: str, value: object) -> None:
    body = {"model": "m", "input": "x", name: value}
    with pytest.raises(ApiError) as refusal:
        parse_response(json.dumps(body).encode())
    assert refusal.value.message == f"{name}: not supported here; leave it out"
