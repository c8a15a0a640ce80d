"""What the gateway adds to the engine: the same messages straight to it and through the gateway.

``python -m benchmarks.gateway [--json] [--requests N]``

Straight to it means: the client itself writes the messages out, encodes them, asks the engine's
socket, and decodes the answer. All are real processes: the gateway with a key, its log and its tap,
and a bare FastAPI server that passes the messages on in the same way and does nothing else. The
engine is the embedded one with random weights of a tiny shape, and then, beside it, one that
computes nothing (scripted_engine.py): on two cores a real one empties the caches that the gateway's
code was in. One client sends to each in turn, over connections that stay open, so that whatever
else the machine does hits all alike. What is added is the difference of the medians (of the 99th in
a hundred). What a long stream adds above a short one is divided by the chunks that it has more.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from appliance.core.database import Database
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry
from appliance.engine.client import AsyncEngine
from appliance.engine.template import Template
from appliance.engine.wire import Generate
from benchmarks.about import about
from serving.keys import add_key

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
NUM_NEW = 8
NUM_LONG = {"embedded": 512, "scripted": 64}
"""Tokens of a long stream; the embedded engine sends several at once when it is faster than we."""
LONG_EVERY = 5
_CHUNK = b'"content":"'
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ENGINES = {"embedded": ["appliance.inference", "serve"], "scripted": ["benchmarks.scripted_engine"]}
WARM_UP = 20
_ABOUT = ("processor", "cores", "load", "python", "fastapi", "uvicorn")
MESSAGES = [
    {"role": "system", "content": "You answer in short words. " * 4},
    {"role": "user", "content": "How high is the river at the second gauge?"},
]


def main() -> None:
    """Run, and print a table or one line of JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.gateway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--requests", type=int, default=300, help="to each side, after warming up")
    arguments = parser.parse_args()
    result: dict[str, Any] = about("torch", "fastapi", "uvicorn", "uvloop")
    result |= {"requests": arguments.requests, "new_tokens": NUM_NEW}
    print(", ".join(f"{name} {result[name]}" for name in _ABOUT), file=sys.stderr)
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(Path(scratch), engine, arguments.requests)
        show(engine, found)
        result |= found if engine == "embedded" else {engine: found}
    if arguments.json:
        print(json.dumps(result))


def show(engine: str, found: dict[str, Any]) -> None:
    """One engine's table."""
    print(f"behind the {engine} engine")
    for name, row in found.items():
        if isinstance(row, dict):
            figures = "   ".join(f"{figure} {value:7.2f} ms" for figure, value in row.items())
            print(f"  {name:16} {figures}")
    print(
        f"  added: p50 {found['added_p50_ms']:.2f} ms, p99 {found['added_p99_ms']:.2f} ms, "
        f"each of {found['chunks']} chunks {found['chunk_ms']:.3f} ms; "
        f"the gateway's processor {found['gateway_processor_ms']:.2f} ms per request"
    )


def measure(scratch: Path, engine: str, requests: int) -> dict[str, Any]:
    """Start the programs on a home of their own, and send to them."""
    home = Home(scratch / "home")
    home.create()
    base = register_random_base(home, scratch)
    database = Database.open(home.database)
    secret, _ = add_key(
        database, team="t", project="p", agent="a", label="internal", exact=False, actor="bench"
    )
    database.close()
    environment = {
        **os.environ,
        "ESPALIER_HOME": str(home.root),
        "ESPALIER__GATEWAY__PORT": "0",
        "ESPALIER__ENGINE__BASE": base.name,
        "ESPALIER__ENGINE__THREADS": "1",
        "ESPALIER__ENGINE__DEVICE": "cpu",
    }
    port = _free_port()
    words = [str(home.root), base.name] if engine == "scripted" else []
    commands = [
        [*ENGINES[engine], *words],
        ["benchmarks.bare_gateway", str(home.root), str(base.path), str(port)],
        ["serving", "serve"],
    ]
    programs = [_start(command, environment) for command in commands]
    bare = f"http://127.0.0.1:{port}/"
    try:
        long = NUM_LONG[engine]
        return asyncio.run(_compare(home, base, secret, requests, long, programs[-1].pid, bare))
    finally:
        for program in reversed(programs):
            program.send_signal(signal.SIGTERM)
            program.wait(30)


async def _compare(
    home: Home, base: Base, secret: str, requests: int, long: int, gateway_pid: int, bare: str
) -> dict[str, Any]:
    template = Template.load(base.path)

    async def straight(num_new: int) -> str:
        ask = Generate(
            prompt_ids=template.encode(MESSAGES), max_tokens=num_new, temperature=0.0, stop_ids=[]
        )
        return template.decode((await engine.generate(ask)).choices[0].ids)

    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    body = {
        "model": "company-model", "messages": MESSAGES, "max_tokens": NUM_NEW, "temperature": 0,
    }  # fmt: skip
    plain, streamed = json.dumps(body), json.dumps({**body, "stream": True})
    many = json.dumps({**body, "stream": True, "max_tokens": long})
    async with AsyncEngine(home.socket("engine")) as engine, aiohttp.ClientSession() as session:
        url = await _ready(home)

        async def through(data: str, url: str = url) -> bytes:
            async with session.post(url, data=data, headers=headers) as answer:
                text = await answer.read()
                if answer.status != 200:
                    raise SystemExit(text.decode())
                return text

        sides: dict[str, Callable[[], Awaitable[Any]]] = {
            "engine": lambda: straight(NUM_NEW),
            "bare": lambda: through(plain, bare),
            "gateway": lambda: through(plain),
            "stream": lambda: through(streamed),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        used_ms = 0.0
        for turn in range(requests + WARM_UP):
            if turn == WARM_UP:
                used_ms = _processor_ms(gateway_pid)
            for name, send in sides.items():
                _, took_ms = await _timed(send)
                if turn >= WARM_UP:
                    times[name].append(took_ms)
        used_ms = (_processor_ms(gateway_pid) - used_ms) / (2 * requests)
        rows = []
        for _ in range(requests // LONG_EVERY):
            added_ms, counts = [], []
            for num_new, data in ((NUM_NEW, streamed), (long, many)):
                _, direct_ms = await _timed(lambda count=num_new: straight(count))
                text, through_ms = await _timed(lambda data=data: through(data))
                added_ms.append(through_ms - direct_ms)
                counts.append(text.count(_CHUNK))
            rows.append((counts[1] - counts[0], added_ms[1] - added_ms[0]))
    chunks = statistics.median(more for more, _ in rows)
    found: dict[str, Any] = {f"{name}_ms": _figures(values) for name, values in times.items()}

    def added(side: str, figure: str) -> float:
        return round(found[f"{side}_ms"][figure] - found["engine_ms"][figure], 3)

    found["added_by_bare_ms"] = {name: added("bare", name) for name in found["bare_ms"]}
    found["added_ms"] = {name: added("gateway", name) for name in found["gateway_ms"]}
    found["added_p50_ms"] = added("gateway", "p50")
    found["added_p99_ms"] = added("gateway", "p99")
    found["chunk_ms"] = round(statistics.median(ms for _, ms in rows) / chunks, 4)
    found["chunks"] = round(chunks)
    found["long_streams"] = len(rows)
    found["gateway_processor_ms"] = round(used_ms, 3)
    return found


async def _timed(send: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    """What it answered, and after how many milliseconds."""
    began = time.perf_counter()
    answer = await send()
    return answer, (time.perf_counter() - began) * 1000


async def _ready(home: Home) -> str:
    connector = aiohttp.UnixConnector(path=str(home.socket("serving")))
    async with aiohttp.ClientSession(connector=connector) as private:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                async with private.get("http://serving/health") as answer:
                    if answer.status == 200:
                        host, port = (await answer.json())["gateway"]
                        return f"http://{host}:{port}/v1/chat/completions"
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not become ready")


def register_random_base(home: Home, scratch: Path) -> Base:
    """A Llama-type base with a byte-level tokenizer of ASCII, and random weights."""
    folder = scratch / "model"
    folder.mkdir()
    # ASCII alone: a token that is half a character would be no chunk of its own.
    ascii_letters = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter.isascii()]
    letters = [*SPECIALS, "Ġ", "Ċ", *sorted(ascii_letters)]
    tokenizer = Tokenizer(models.BPE(vocab={t: at for at, t in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(letters),
        "hidden_act": "silu", "eos_token_id": 0, **SHAPE,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    _write_weights(folder / "model.safetensors", len(letters))
    return Registry(home).add_directory(folder, "bench", "random weights")


def _write_weights(path: Path, vocabulary: int) -> None:
    from safetensors.numpy import save_file

    noise = np.random.default_rng(0)
    hidden, inner = int(SHAPE["hidden_size"]), int(SHAPE["intermediate_size"])
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(int(SHAPE["num_hidden_layers"])):
        at = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (hidden, hidden)
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    tensors = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else noise.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    # No special token is ever the likeliest: an answer ends where its length does.
    tensors["model.embed_tokens.weight"][: len(SPECIALS)] = 0
    save_file(tensors, path)


def _start(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    log = Path(environment["ESPALIER_HOME"]) / "logs" / f"{command[0]}.log"
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command], stdout=file, stderr=file, env=environment
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processor_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _figures(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p90": round(ordered[int(len(ordered) * 0.9)], 3),
        "p99": round(ordered[int(len(ordered) * 0.99)], 3),
    }


if __name__ == "__main__":
    main()
