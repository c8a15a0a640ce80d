"""What other programs leave behind for the gateway: a tokenizer, a trained adapter, signatures."""

import http.client
import json
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from appliance.core.adapters import RECORD, content_digest
from appliance.core.database import Database
from appliance.core.decisions import Approval
from appliance.core.digests import Digest, digest_bytes, digest_json
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Adapter, Probe, encode
from appliance.core.tables import adapters as adapters_table
from appliance.core.tables import approvals, rounds, users

GATES = """
schema = "gates/1"
name = "test"
quorum = 2
[[gate]]
name = "target"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
"""


def write_byte_tokenizer(folder: Path) -> dict[str, int]:
    """A tokenizer of three special tokens and every byte; returns its vocabulary."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return vocabulary


def publish_adapter(
    home: Home,
    database: Database,
    base: Digest,
    work: Path,
    probe: Probe,
    *,
    seed: int,
    rank: int,
    alpha: int,
    label: str = "internal",
) -> Digest:
    """Give the PEFT folder `work` its record, its place and its row, as the trainer does."""
    content = content_digest(work, base)
    record = Adapter(
        content=content,
        base=base,
        parent=None,
        dataset=digest_bytes(b"dataset"),
        recipe=digest_bytes(b"recipe"),
        rank=rank,
        alpha=alpha,
        target_modules=("q_proj",),
        seed=seed,
        num_threads=1,
        versions={},
        probe=ObjectStore(home.objects).put(encode(probe)),
        metrics={},
    )
    (work / RECORD).write_bytes(encode(record))
    work.rename(home.adapter(content))
    with database.write() as connection:
        number = connection.scalar(sa.select(sa.func.count()).select_from(adapters_table))
        connection.execute(
            sa.insert(adapters_table).values(
                content=content, number=(number or 0) + 1, base=base, parent=None,
                dataset=record.dataset, label=label, record=encode(record).decode(),
                created_at=1.0,
            )
        )  # fmt: skip
    return content


def add_round(
    database: Database,
    gates: Digest,
    adapter: Digest,
    *,
    approvers: Sequence[str] = ("ada", "ben"),
    author: str = "cid",
) -> tuple[int, list[Digest]]:
    """A round that made this adapter, and what these people decided about it."""
    scorecard = digest_bytes(f"scorecard of {adapter}".encode())
    with database.write() as connection:
        number = connection.execute(
            sa.insert(rounds).values(
                state="releasing", reason="", authors=json.dumps([author]),
                order=json.dumps({"gates": gates}), adapter=adapter, scorecard=scorecard,
                lease_until=0.0, fencing=0, created_at=1.0, changed_at=1.0,
            )
        ).inserted_primary_key[0]  # fmt: skip
    return number, [
        approve(database, gates, number, adapter, name, scorecard) for name in approvers
    ]


def approve(
    database: Database,
    gates: Digest,
    number: int,
    adapter: Digest,
    name: str,
    scorecard: Digest,
    decision: str = "approve",
    at: float | None = None,
) -> Digest:
    """One person's decision; the person is made where there is none."""
    approval = Approval(
        round=number,
        adapter=adapter,
        scorecard=scorecard,
        order=digest_json({"gates": gates}),
        approver=name,
        decision=decision,
        comment="",
        at=time.time() - 1 if at is None else at,
    )
    with database.write() as connection:
        person = {"name": name, "role": "approver", "passphrase_hash": "", "created_at": 0.0}
        connection.execute(sa.insert(users).prefix_with("OR IGNORE").values(person))
        connection.execute(
            sa.insert(approvals).values(
                digest=approval.digest, round=number, adapter=adapter, approver=name,
                record=encode(approval).decode(),
            )
        )  # fmt: skip
    return approval.digest


def call(home: Home, method: str, route: str, body: Any = None) -> Any:
    """One call of the gateway's private API; a refusal is a RuntimeError with its body."""
    with closing(http.client.HTTPConnection("serving", timeout=120)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(home.socket("serving")))
        connection.request(method, route, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        value = json.loads(answer.read())
    if answer.status >= 400:
        raise RuntimeError(answer.status, value["error"]["message"], value)
    return value
