"""A base with a byte tokenizer, an engine that says what a test scripts, and sealed datasets."""

import json
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from appliance.core.digests import Digest, digest_bytes
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Example, Item, encode
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template
from appliance.engine.wire import Generate, Health, Lease, Line, Released, Score, Scores

CANDIDATE = digest_bytes(b"candidate")
CHAMPION = digest_bytes(b"champion")
Side = Digest | None


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


@dataclass
class ScriptedEngine:
    """The engine's wire, with answers from two functions that a test may replace."""

    base: Digest
    template: Template
    answer: Callable[[Side, str], str] = lambda side, prompt: "?"
    logprob: Callable[[Side], float] = lambda side: -1.0
    num_generated: int = 0
    num_scored: int = 0
    priorities: set[str] = field(default_factory=set)
    held: dict[str, Digest] = field(default_factory=dict)

    def generate(self, request: Generate) -> list[Line]:
        assert request.temperature == 0
        assert request.adapter is None or request.adapter in self.held.values()
        self.num_generated += 1
        self.priorities.add(request.priority)
        said = re.findall(r"user\n(.*?)\s*assistant\n$", self._text(request), re.DOTALL)
        ids = self.template.encode_text(self.answer(request.adapter, said[-1]))
        end = self.template.stop_ids[-1]
        return [
            Line(index=0, ids=ids[: request.max_tokens], logprobs=[]),
            Line(index=0, ids=[end], finish_reason="stop"),
            Line(done=True, prompt_tokens=len(request.prompt_ids)),
        ]

    def score(self, request: Score) -> Scores:
        self.num_scored += len(request.ids)
        each = self.logprob(request.adapter)
        return Scores(logprobs=[[each] * (len(row) - 1) for row in request.ids])

    def prepare(self, lease: Lease) -> dict[str, bool]:
        assert lease.adapter is not None
        self.held[lease.holder] = lease.adapter
        return {}

    def release(self, lease: Lease) -> Released:
        del self.held[lease.holder]
        return Released()

    def _text(self, request: Generate) -> str:
        return self.template.decode(request.prompt_ids)


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


def item(number: int | str, prompt: str, expected: str, family: str = "all") -> Item:
    return Item(
        item_id=f"item-{number}",
        family=family,
        messages=({"role": "user", "content": prompt},),
        check={"kind": "exact", "expected": expected},
        max_tokens=32,
    )


def seal(
    home: Home,
    base: Base,
    template: Template,
    rows: Sequence[tuple[str, str]],
    *,
    kind: str = "success",
) -> Digest:
    """A dataset of (prompt, answer) rows, encoded as the gateway would have fed them."""
    store = ObjectStore(home.objects)
    examples = []
    for number, (prompt, answer) in enumerate(rows):
        spans = template.spans(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        )
        ids = np.asarray(spans.ids, "<i4").tobytes()
        mask = np.asarray(spans.mask, "u1").tobytes()
        examples.append(
            Example(
                trajectory_id=f"t{number}",
                version=1,
                node=0,
                kind=kind,  # type: ignore[arg-type]
                tier="gold",
                family="all",
                task=f"t{number}",
                reward=1.0,
                ids=ArrayRef(digest_of_bytes=store.put(ids), dtype="int32", count=len(spans.ids)),
                mask=ArrayRef(digest_of_bytes=store.put(mask), dtype="uint8", count=len(spans.ids)),
                logprobs=None,
                adapter=None,
            )
        )
    dataset = Dataset(
        base=base.digest,
        template=template.digest,
        recipe=digest_bytes(b"recipe"),
        label="internal",
        trajectories=tuple((example.trajectory_id, 1) for example in examples),
        examples=tuple(examples),
        exclusions=(),
        counts={},
    )
    return store.put(encode(dataset))
