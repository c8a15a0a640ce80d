"""What the public API refuses: bad bodies, bad keys, too much of either."""

import http.client
from typing import Any

import openai
import pytest

from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say, wait_for_key


def nested(depth: int) -> dict[str, Any]:
    """An object in an object in an object …"""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "no messages": ({"messages": []}, 400, "messages"),
    "messages missing": ({"messages": None}, 400, "messages"),
    "role no text": ({"messages": [{"role": {}, "content": "x"}]}, 400, "messages"),
    "role unknown": ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages"),
    "temperature": ({"temperature": 3}, 400, "temperature"),
    "top_p": ({"top_p": 0}, 400, "top_p"),
    "n": ({"n": 99}, 400, "n"),
    "parallel_tool_calls": ({"parallel_tool_calls": "no"}, 400, "parallel_tool_calls"),
    "max_tokens": ({"max_tokens": 0}, 400, "max_tokens"),
    "seed": ({"seed": 2**60}, 400, "seed"),
    "top_logprobs alone": ({"top_logprobs": 3}, 400, "top_logprobs"),
    "stop empty": ({"stop": ""}, 400, "stop"),
    "penalty": ({"presence_penalty": 1}, 400, "presence_penalty"),
    "a grammar": ({"response_format": {"type": "grammar"}}, 400, "response_format"),
    "effort": ({"reasoning_effort": "high"}, 400, "reasoning_effort"),
    "a slip of the pen": ({"max_tokns": 9}, 400, "max_tokns"),
    "a field of others": ({"repetition_penalty": 1.2}, 400, "repetition_penalty"),
    "forced tool, and none there": ({"tool_choice": "required"}, 400, "tool_choice"),
    "model": ({"model": "gpt-4o"}, 404, "model"),
    "version": ({"model": f"{ALIAS}@sha256:{'0' * 64}"}, 404, "model"),
    "not a digest": ({"model": f"{ALIAS}@17"}, 404, "model"),
    "nested too deeply": (
        {"messages": [{"role": "user", "content": "x", "more": nested(400)}]},
        400,
        "messages",
    ),
    "a tool nested too deeply": ({"tools": [nested(400)]}, 400, "tools"),
    "too long": ({"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "messages"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_names_the_parameter(client: openai.OpenAI, case: str) -> None:
    change, status, param = BAD_REQUESTS[case]
    body = {"model": ALIAS, "messages": say("x"), **change}
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert (caught.value.status_code, caught.value.body["param"]) == (status, param)
    assert caught.value.body["type"] == "invalid_request_error"


def test_a_prompt_that_is_too_long_names_the_limit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2048") as caught:
        client.chat.completions.create(
            model=ALIAS, messages=[{"role": "user", "content": "x" * 3000}]
        )
    assert caught.value.code == "context_length_exceeded"


BAD_FEEDBACK = {
    "no target": {"outcome": "ok"},
    "two targets": {"target": {"session": "s", "turn_id": "t"}, "outcome": "ok"},
    "nothing said": {"target": {"session": "s"}},
    "outcome unknown word": {"target": {"session": "s"}, "outcome": "great"},
    "kind without its field": {"target": {"session": "s"}, "kind": "correction"},
    "unknown field": {"target": {"session": "s"}, "outcome": "ok", "score": 3},
}


@pytest.mark.parametrize("case", BAD_FEEDBACK)
def test_bad_feedback_is_refused(client: openai.OpenAI, case: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/feedback", body=BAD_FEEDBACK[case], cast_to=object)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b'{"model": 3}'], ids=repr)
def test_junk_is_a_400(gateway: GatewayProcess, client: openai.OpenAI, body: bytes) -> None:
    for route in ("chat/completions", "completions", "feedback"):
        assert status_of(gateway, route, client.api_key, body) == 400


@pytest.mark.parametrize(
    ("path", "meant", "base"),
    [
        ("/chat/completions", "/v1/chat/completions", "/v1 (OPENAI_BASE_URL)"),
        ("/v1/v1/chat/completions", "/v1/chat/completions", "/v1 (OPENAI_BASE_URL)"),
        ("/v1/v1/v1/models/a/b", "/v1/models/a/b", "/v1 (OPENAI_BASE_URL)"),
        ("/feedback", "/v1/feedback", "/v1 (OPENAI_BASE_URL)"),
        ("/v1/v1/messages", "/v1/messages", " (ANTHROPIC_BASE_URL)"),
        ("/messages/count_tokens", "/v1/messages/count_tokens", " (ANTHROPIC_BASE_URL)"),
    ],
)
def test_a_base_url_with_v1_too_few_or_too_many_is_told(
    gateway: GatewayProcess, path: str, meant: str, base: str
) -> None:
    status, said = answer_of(gateway, "POST", path)
    assert status == 404
    assert f"it is {meant}: set the base URL to {gateway.url}{base}" in said


@pytest.mark.parametrize("path", ["/v1/nosuch", "/", "/v1", "/v1/", "/v12/chat/completions"])
def test_any_other_unknown_route_is_no_matter_of_the_base_url(
    gateway: GatewayProcess, path: str
) -> None:
    status, said = answer_of(gateway, "POST", path)
    assert (status, "base URL" in said) == (404, False)


def test_a_wrong_method_is_no_matter_of_the_base_url(gateway: GatewayProcess) -> None:
    status, said = answer_of(gateway, "GET", "/v1/chat/completions")
    assert (status, "base URL" in said) == (404, False)


def test_a_huge_body_is_a_413(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    assert status_of(gateway, "chat/completions", client.api_key, b"x" * (33 << 20)) == 413


def test_without_a_good_key_nothing_is_served(gateway: GatewayProcess) -> None:
    for key in ("", "esp-wrong", "esp-ü"):
        for route in ("chat/completions", "completions", "feedback"):
            assert status_of(gateway, route, key, b"{}") == 401
    assert status_of(gateway, "models", "", None) == 401


def test_a_revoked_key_is_worthless_within_seconds(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    from serving.keys import revoke_key

    secret, key = appliance.add_key()
    wait_for_key(gateway, secret)
    revoke_key(appliance.database, key.key_id, actor="test")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as agent:

        def refused() -> bool:
            try:
                agent.models.list()
            except openai.AuthenticationError:
                return True
            return False

        wait_until(refused)


def test_an_ordinary_key_addresses_the_alias_only(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    secret, _ = appliance.add_key()
    wait_for_key(gateway, secret)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as agent:
        agent.chat.completions.create(model=ALIAS, messages=say("x"))
        with pytest.raises(openai.PermissionDeniedError):
            agent.chat.completions.create(model=f"{ALIAS}@base", messages=say("x"))
        assert [model.id for model in agent.models.list()] == [ALIAS]


def test_a_key_above_the_endpoints_label_is_refused(
    appliance: Appliance, gateway: GatewayProcess
) -> None:
    secret, _ = appliance.add_key(label="secret")
    wait_until(lambda: status_of(gateway, "chat/completions", secret, b"{}") == 403)


def test_a_session_is_a_short_printable_word(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=ALIAS, messages=say("x"), extra_headers={"x-espalier-session": "s" * 300}
        )


def test_an_unknown_route_is_a_404_in_openais_shape(
    gateway: GatewayProcess, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.NotFoundError, match="no route"):
        client.get("/assistants", cast_to=object)


def status_of(gateway: GatewayProcess, route: str, key: str, body: bytes | None) -> int:
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    headers = {"authorization": f"Bearer {key}".encode(), "content-type": "application/json"}
    try:
        connection.request("GET" if body is None else "POST", f"/v1/{route}", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def answer_of(gateway: GatewayProcess, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
