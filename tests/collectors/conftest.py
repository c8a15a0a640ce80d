"""A home with its log, and turns as the gateway would send them."""

import json
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from appliance.core.digests import Digest, digest_bytes
from appliance.core.home import Home
from appliance.core.records import ArrayRef, Sampling, Turn, Who
from appliance.core.settings import Settings
from appliance.engine.bases import Base, Registry
from appliance.ingest import Ingest
from collectors.collector import Collector
from tests.collectors.desk import Desk

DATA = Path(__file__).parents[3] / "shared" / "data" / "trajectories"

Arrays = dict[Digest, bytes]


class TurnMaker:
    """Gold turns out of small token lists, silver ones out of texts."""

    base = Digest("sha256:" + "b" * 64)

    def gold(
        self,
        turn_id: str,
        prompt: Sequence[int],
        answer: Sequence[int],
        *,
        session: str | None = None,
        key_id: str = "key-1",
        at: float | None = None,
        **other: Any,
    ) -> tuple[Turn, Arrays]:
        logprobs = np.full(len(answer), -0.5, "<f4").tobytes()
        data = [np.asarray(prompt, "<i4").tobytes(), np.asarray(answer, "<i4").tobytes(), logprobs]
        refs = [
            ArrayRef(digest_of_bytes=digest_bytes(d), dtype=kind, count=len(d) // 4)
            for d, kind in zip(data, ("int32", "int32", "float32"), strict=True)
        ]
        # The messages spell the ids, so that both ways of joining say the same.
        messages = ({"role": "user", "content": " ".join(map(str, prompt))},)
        content = " ".join(map(str, answer))
        turn = self.silver(turn_id, messages, content, session=session, key_id=key_id, at=at)
        fields = {
            "prompt_ids": refs[0],
            "answer_ids": refs[1],
            "logprobs": refs[2],
            "base": self.base,
            "sampling": Sampling(temperature=1.0, max_tokens=8),
            **other,
        }
        turn = _replace(turn, **fields)
        return turn, {r.digest_of_bytes: d for r, d in zip(refs, data, strict=True)}

    def silver(
        self,
        turn_id: str,
        messages: Sequence[Any],
        content: str,
        *,
        session: str | None = None,
        key_id: str = "key-1",
        at: float | None = None,
        **other: Any,
    ) -> Turn:
        at = time.time() if at is None else at
        turn = Turn(
            turn_id=turn_id,
            who=Who(key_id=key_id, team="team", project="project", agent="agent"),
            label="internal",
            session=session,
            base=None,
            adapter=None,
            template=None,
            messages=tuple(messages),
            answer={"role": "assistant", "content": content},
            finish_reason="stop",
            sampling=None,
            prompt_ids=None,
            answer_ids=None,
            logprobs=None,
            started_at=at,
            ended_at=at,
        )
        return _replace(turn, **other)


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture(scope="session")
def make() -> TurnMaker:
    return TurnMaker()


@pytest.fixture
def ingest(home: Home, settings: Settings) -> Iterator[Ingest]:
    door = Ingest(home, settings, collector="test")
    yield door
    door.close()


@pytest.fixture
def collector(home: Home, settings: Settings) -> Iterator[Collector]:
    one = Collector(home, settings)
    yield one
    one.close()


@pytest.fixture
def data() -> Callable[[str], Path]:
    def path(name: str) -> Path:
        if not (DATA / name).exists():
            pytest.skip(f"needs the data folder ({name})")
        return DATA / name

    return path


def _replace(turn: Turn, **fields: Any) -> Turn:
    return msgspec.structs.replace(turn, **fields)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a small real tokenizer, as save_pretrained would leave it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the user asks, the assistant answers. " * 50], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    eos = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(eos))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 400,
        "max_position_embeddings": 200_000,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return folder


@pytest.fixture
def base(home: Home, base_folder: Path) -> Base:
    return Registry(home).add_directory(base_folder, "test-base", "made by a test")


@pytest.fixture
def desk(
    home: Home, base: Base, ingest: Ingest, collector: Collector, make: Any, tmp_path: Path
) -> Desk:
    return Desk(home, base, ingest, collector, make, tmp_path)
