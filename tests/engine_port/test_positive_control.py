"""The suite can fail: pointed at in-place loading of vLLM, its mixing check must find the mix."""

import http.client
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from appliance.core.digests import Digest
from appliance.engine.client import Choice, Generation
from appliance.engine.wire import Line
from tests.engine_port.checks import PROMPT, ask, gaps, require_one_version
from tests.engine_port.conftest import NEEDS_VLLM
from tests.engine_port.engines import UnderTest

pytestmark = NEEDS_VLLM

_NAME = "in-place"


def test_in_place_loading_fails_the_mixing_check(
    vllm: UnderTest, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(vllm.prepare, vllm.company.adapters[:2])
    replica = vllm.company.home.socket("vllm-0")
    _load(vllm, replica, first, in_place=False)
    try:
        answer = _stream(replica, meanwhile=lambda: _load(vllm, replica, second, in_place=True))
    finally:
        _call(replica, "/v1/unload_lora_adapter", {"lora_name": _NAME})
    request = ask(first, num=len(answer.ids))
    with pytest.raises(AssertionError, match="are of another version") as found:
        require_one_version(vllm.client, request, answer)
    after = gaps(vllm.client, request, answer, second)
    with capsys.disabled():
        print(f"\npositive control, in-place loading: {found.value}")
    # It is the other version's tokens that it found: the end of the answer is nearer to that one.
    assert min(after[-5:]) < min(gaps(vllm.client, request, answer, first)[-5:])


def _stream(replica: Path, *, meanwhile: Callable[[], None]) -> Choice:
    body = {
        "model": _NAME, "prompt": PROMPT, "max_tokens": 900, "seed": 7, "temperature": 1.0,
        "ignore_eos": True, "logprobs": 0, "return_token_ids": True, "stream": True,
    }  # fmt: skip
    whole = Generation(choices=[Choice()])
    with ThreadPoolExecutor(1) as pool, closing(_connect(replica)) as connection:
        loading = None
        for raw in _post(connection, "/v1/completions", body):
            if not raw.startswith(b"data: {"):
                continue
            for choice in msgspec.json.decode(raw[6:]).get("choices", []):
                logprobs = choice["logprobs"]["token_logprobs"] if choice["logprobs"] else []
                whole.take(Line(index=0, ids=choice["token_ids"] or [], logprobs=logprobs))
            if loading is None and len(whole.choices[0].ids) > 20:
                loading = pool.submit(meanwhile)
        assert loading is not None
        loading.result()
    return whole.choices[0]


def _load(vllm: UnderTest, replica: Path, adapter: Digest, *, in_place: bool) -> None:
    folder = vllm.company.home.adapter(adapter)
    body = {"lora_name": _NAME, "lora_path": str(folder), "load_inplace": in_place}
    _call(replica, "/v1/load_lora_adapter", body)


def _call(replica: Path, path: str, body: object) -> None:
    with closing(_connect(replica)) as connection:
        answer = _post(connection, path, body)
        assert answer.status == 200, answer.read()


def _connect(replica: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("vllm", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(replica))
    return connection


def _post(
    connection: http.client.HTTPConnection, path: str, body: object
) -> http.client.HTTPResponse:
    headers = {"content-type": "application/json"}
    connection.request("POST", path, msgspec.json.encode(body), headers)
    return connection.getresponse()
