"""The gateway against a description of its routes: whatever is sent, it is never a fault of ours.

The description is built from the structs that parse the requests, so it says what they take.
"""

import http.client
import json
from collections import Counter
from typing import Any

import msgspec
import openai
import pytest

from serving.anthropic.wire import MessagesRequest, Prompt
from serving.app import HOT_ROUTES
from serving.feedback import FeedbackRequest
from serving.openai.responses_wire import ResponseRequest
from serving.openai.wire import ChatRequest, CompletionRequest
from tests.fuzzing import send_drawn
from tests.serving.conftest import ALIAS, ROOT, GatewayProcess

BODIES: dict[str, type[msgspec.Struct]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponseRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": Prompt,
    "/v1/feedback": FeedbackRequest,
}
_ABSENT = [
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "functions",
    "modalities",
    "response_format",
    "best_of",
    "echo",
    "suffix",
    "previous_response_id",
    "conversation",
    "background",
    "context_management",
    "truncation",
    "reasoning",
    "reasoning_effort",
    "include",
    "text",
    "top_logprobs",
]
"""What a good request does not have: it would be refused, or needs an engine that writes JSON."""
_TEXT = {"type": "string", "maxLength": 40}
_PART = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "image"]},
        "text": _TEXT,
    },
    "required": ["type", "text"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": ["user", "system"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": _PART, "maxItems": 3}]},
    },
    "required": ["role", "content"],
}
_TOOL = {
    "type": "object",
    "properties": {
        "type": {"enum": ["function", "custom", None]},
        "name": _TEXT,
        "function": {
            "type": "object",
            "properties": {"name": _TEXT, "parameters": {"type": "object"}},
            "required": ["name"],
        },
    },
    "required": ["name"],
}


def describe() -> dict[str, Any]:
    """The OpenAPI document of the public routes."""
    bodies = [*BODIES.values()]
    found, components = msgspec.json.schema_components(
        bodies, ref_template="#/components/schemas/{name}"
    )
    for schema in components.values():
        narrow(schema.get("properties", {}), schema.get("required", []))
    paths: dict[str, Any] = {
        route: {
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": schema}},
                },
                "responses": {"200": {"description": "answered"}},
            }
        }
        for route, schema in zip(BODIES, found, strict=True)
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    answered = {"200": {"description": "answered"}}
    paths["/v1/models"] = {"get": {"responses": answered}}
    paths["/v1/models/{name}"] = {"get": {"parameters": [name], "responses": answered}}
    info = {"title": "gateway", "version": "1"}
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": components},
    }


def narrow(properties: dict[str, Any], required: list[str]) -> None:
    """What the structs leave open, so that some of what is drawn is good."""
    messages = {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 3}
    chosen = {
        **{name: {"type": "null"} for name in _ABSENT if name not in required},
        "model": {"enum": [ALIAS, f"{ALIAS}@base"]},
        "messages": messages,
        "input": {"anyOf": [_TEXT, messages]},
        "tools": {"anyOf": [{"type": "array", "items": _TOOL}, {"type": "null"}]},
        "tool_choice": {"enum": [None, "auto", "required", {"type": "auto"}, {"type": "any"}]},
        "thinking": {"enum": [None, {"type": "disabled"}, {"type": "enabled"}]},
        "output_config": {"enum": [None, {}, {"effort": "high"}, {"format": {"type": "text"}}]},
        "prompt": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "integer"}}]}
        if "prompt" in required
        else {"type": "null"},
        "system": {"anyOf": [_TEXT, {"type": "null"}]},
    }
    properties.update({name: chosen[name] for name in chosen if name in properties})


def test_every_route_of_the_hot_path_is_described() -> None:
    assert set(HOT_ROUTES) <= set(BODIES)
    page = (ROOT / "docs" / "gateway.md").read_text()
    assert [route for route in BODIES if f"`POST {route}`" not in page] == []


@pytest.mark.timeout(300)
def test_whatever_is_sent_is_answered(
    gateway: GatewayProcess, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    by_status: Counter[int] = Counter()
    by_route: Counter[str] = Counter()
    headers = {
        "authorization": f"Bearer {client.api_key}",
        "content-type": "application/json",
    }

    def send(case: Any) -> None:
        body = case.body if isinstance(case.body, list | dict | str | int) else None
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=30)
        try:
            connection.request(case.method, case.formatted_path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        by_status[answer.status] += 1
        if answer.status == 200:
            by_route[case.path] += 1
        assert answer.status < 500, (case.method, case.formatted_path, body, text)
        if answer.status >= 400:
            assert json.loads(text)["error"]["message"]
        else:
            assert '"error":{' not in text, (body, text)

    operations = send_drawn(describe(), send, max_examples=40)
    with capsys.disabled():
        print(
            f"\ngateway: {operations} operations, {sum(by_status.values())} requests, "
            f"statuses {dict(sorted(by_status.items()))}, answered {dict(by_route)}"
        )
    assert set(by_status) >= {200, 400, 404}
    assert {"/v1/messages", "/v1/responses", "/v1/completions"} <= set(by_route)
