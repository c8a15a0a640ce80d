"""The least that a FastAPI gateway can be: a prompt that is ids already, passed on and passed back.

No key, no template, no tools, no log. What `benchmarks.gateway` compares ours with.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from appliance.core.home import Home
from appliance.engine.client import AsyncEngine
from appliance.engine.wire import Generate


def main() -> None:
    """``python -m benchmarks.bare_gateway HOME PORT``."""
    engine = AsyncEngine(Home(Path(sys.argv[1])).socket("engine"))
    app = FastAPI(openapi_url=None)

    @app.post("/")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        made = await engine.generate(Generate(**body))
        return {"ids": made.choices[0].ids}

    uvicorn.run(
        app, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
