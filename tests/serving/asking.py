"""Small questions to a gateway."""

import time
from typing import Any

import openai

from tests.serving.conftest import ALIAS, GatewayProcess


def ask(client: openai.OpenAI, model: str = ALIAS) -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "who are you?"}]
    )
    return str(answer.choices[0].message.content)


def generation(gateway: GatewayProcess) -> int:
    return int(gateway.admin("GET", "/releases")["generation"])


def wait_until(condition: Any, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
