"""vLLM's server without a model, on the paths that a replica is asked on: completions with ids,
logprobs of a prompt, LoRA, health. It can die, come back without its adapters, and be held up.
"""

import asyncio
import json
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from aiohttp import web

from appliance.engine.vllm.launch import BASE_NAME


class VllmSimulator:
    """Use as an async context manager; `die` and `come_back` stand for a restart."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.loaded: dict[str, str] = {}
        """Name → path, of what was loaded since the start."""
        self.scored: dict[str, list[list[list[int]]]] = defaultdict(list)
        """Rows that were scored, by the name of the model."""
        self.num_begun = 0
        """Loads and scores that somebody has asked for, held up or not."""
        self.wrong = False
        """Whether its adapters have other weights than they should."""
        self.go_on = asyncio.Event()
        """Loads, and scores of adapters, wait for it."""
        self.go_on.set()
        self._up = True
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "VllmSimulator":
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self._health),
                web.post("/v1/load_lora_adapter", self._load),
                web.post("/v1/unload_lora_adapter", self._unload),
                web.post("/v1/completions", self._complete),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go_on.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def die(self) -> None:
        self._up = False
        self.loaded.clear()
        self.scored.clear()

    def come_back(self) -> None:
        self._up = True

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._up else 503)

    async def _load(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.num_begun += 1
        await self.go_on.wait()
        self.loaded[asked["lora_name"]] = asked["lora_path"]
        return web.Response()

    async def _unload(self, request: web.Request) -> web.Response:
        self.loaded.pop((await request.json())["lora_name"], None)
        return web.Response()

    async def _complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        model = asked["model"]
        if not self._up:
            return _refuse(500, "the engine is dead")
        if model != BASE_NAME and model not in self.loaded:
            return _refuse(404, f"no model {model}")
        if asked.get("stream"):
            return web.Response(text=_EVENTS, content_type="text/event-stream")
        self.num_begun += 1
        if model != BASE_NAME:
            await self.go_on.wait()
        self.scored[model].append(asked["prompt"])
        path = self.loaded.get(model, "")
        seed = zlib.crc32(f"{path}{self.wrong and path}".encode())
        choices = [
            {"index": at, "prompt_logprobs": _logprobs(row, seed)}
            for at, row in enumerate(asked["prompt"])
        ]
        return web.json_response({"choices": choices})


_CHUNK = {
    "choices": [
        {
            "index": 0,
            "token_ids": [5],
            "logprobs": {"token_logprobs": [-1.0], "top_logprobs": [{"token_id:5": -1.0}]},
            "finish_reason": "length",
        }
    ]
}
_EVENTS = f"data: {json.dumps(_CHUNK)}\n\ndata: [DONE]\n\n"


def _logprobs(row: list[int], seed: int) -> list[dict[str, Any] | None]:
    values = [-1.0 - (seed * (token + 1)) % 997 / 997 for token in row[1:]]
    return [
        None,
        *({str(token): {"logprob": v}} for token, v in zip(row[1:], values, strict=True)),
    ]


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
