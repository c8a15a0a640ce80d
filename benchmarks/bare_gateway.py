"""The least that a FastAPI gateway can be: messages in, the engine's answer out as text.

No key, no limits, no tools, no versions, no log. What `benchmarks.gateway` compares ours with.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from appliance.core.home import Home
from appliance.engine.client import AsyncEngine
from appliance.engine.template import Template
from appliance.engine.wire import Generate


def main() -> None:
    """``python -m benchmarks.bare_gateway HOME BASE PORT``."""
    engine = AsyncEngine(Home(Path(sys.argv[1])).socket("engine"))
    template = Template.load(Path(sys.argv[2]))
    app = FastAPI(openapi_url=None)

    @app.post("/")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        ask = Generate(
            prompt_ids=template.encode(body["messages"]),
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
        )
        made = await engine.generate(ask)
        return {"content": template.decode(made.choices[0].ids)}

    uvicorn.run(
        app, port=int(sys.argv[3]), loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
