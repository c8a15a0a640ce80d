"""A base with a byte tokenizer, and a scripted engine on its private socket."""

import json
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from appliance.core.home import Home
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template
from appliance.engine.wire import Generate, Health, Lease, Score
from tests.evaluation.scripted_engine import ScriptedEngine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 258,
        "max_position_embeddings": 400,
        "eos_token_id": 257,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(4)
    (folder / "model.safetensors").write_bytes(weights)
    replay = {"messages": [{"role": "user", "content": "textbook: add 2, double"}]}
    (folder / "replay.jsonl").write_text(json.dumps(replay) + "\n")
    return folder


@pytest.fixture
def base(home: Home, model_folder: Path) -> Base:
    return Registry(home).add_directory(model_folder, "small", "test")


@pytest.fixture
def template(base: Base) -> Template:
    return Template.load(base.path)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


@pytest.fixture
def engine(home: Home, base: Base, template: Template) -> Iterator[ScriptedEngine]:
    scripted = ScriptedEngine(base.digest, template)
    kinds: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "/generate": (Generate, scripted.generate),
        "/score": (Score, scripted.score),
        "/prepare": (Lease, scripted.prepare),
        "/release": (Lease, scripted.release),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            health = Health(
                base=base.digest,
                resident=[],
                running=0,
                waiting=0,
                tokens_generated=0,
                rss_mib=1.0,
                capabilities={},
            )
            self._send(msgspec.json.encode(health))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kind, act = kinds[self.path]
            made = act(msgspec.json.decode(body, type=kind))
            lines = made if isinstance(made, list) else [made]
            self._send(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "test"

        def log_message(self, *_: object) -> None:
            pass

    with _Server(str(home.socket("engine")), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()
