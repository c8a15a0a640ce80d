"""Bad adapters, one for each way to be bad; each is refused with its own reason."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.adapters import CONFIG, RECORD, WEIGHTS
from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import AdapterError
from appliance.core.home import Home
from serving.adapter_check import REASONS, verify_adapter
from serving.command import main
from tests.serving.conftest import (
    SHAPE,
    lora_tensors,
    register_base,
    safetensors,
    write_adapter,
)

BASE = digest_bytes(b"the base")
FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the tensors by name and write them again."""
    tensors = lora_tensors(0)
    change(tensors)
    (folder / WEIGHTS).write_bytes(safetensors(tensors))


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def reheader(folder: Path, change: Callable[[str], str]) -> None:
    data = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    text = change(data[8 : 8 + size].decode()).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: value})


def poison(value: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[f"{FIRST}.lora_A.weight"][1, 1] = value

    return change


def zero_b(tensors: dict[str, Any]) -> None:
    for name in tensors:
        if ".lora_B." in name:
            tensors[name][:] = 0


def rank_of(rank: int) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors.update(lora_tensors(0, rank))

    return change


def wider(tensors: dict[str, Any]) -> None:
    for name in tensors:
        if ".q_proj.lora_A." in name:
            tensors[name] = np.ones((4, 32), "<f4")


def one_sided(tensors: dict[str, Any]) -> None:
    del tensors[f"{FIRST}.lora_B.weight"]


def twice(header: str) -> str:
    first = json.loads(header)[f"{FIRST}.lora_A.weight"]
    return header[:-1] + f', "{FIRST}.lora_A.weight": {json.dumps(first)}}}'


def cut(folder: Path, keep: float) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(len(data) * keep)])


def link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to("../elsewhere")


def brain(values: Any) -> Any:
    return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2")


def brain_nan(tensors: dict[str, Any]) -> None:
    bad = tensors[f"{FIRST}.lora_A.weight"]
    bad[0, 0] = np.nan
    tensors[f"{FIRST}.lora_A.weight"] = brain(bad)


ROGUE = np.ones((4, 16), "<f4")

BAD: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights missing": ("missing_file", lambda d: (d / WEIGHTS).unlink()),
    "config missing": ("missing_file", lambda d: (d / CONFIG).unlink()),
    "cut in the numbers": ("truncated", lambda d: cut(d, 0.9)),
    "cut in the header": ("truncated", lambda d: cut(d, 0.05)),
    "empty": ("truncated", lambda d: (d / WEIGHTS).write_bytes(b"")),
    "NaN": ("nan", lambda d: rewrite(d, poison(np.nan))),
    "NaN in bfloat16": ("nan", lambda d: rewrite(d, brain_nan)),
    "infinite": ("infinite", lambda d: rewrite(d, poison(-np.inf))),
    "B is zero": ("zero_b", lambda d: rewrite(d, zero_b)),
    "record names another base": (
        "wrong_base",
        lambda d: (d / RECORD).write_text(json.dumps({"base": digest_bytes(b"other")})),
    ),
    "layers of another size": ("wrong_base", lambda d: rewrite(d, wider)),
    "more layers than the base": (
        "wrong_base",
        lambda d: rewrite(d, put(FIRST.replace("layers.0", "layers.9") + ".lora_A.weight", ROGUE)),
    ),
    "rank is not the config's": ("wrong_rank", lambda d: rewrite(d, rank_of(8))),
    "rank zero": ("wrong_rank", lambda d: configure(d, r=0)),
    "rank too high": (
        "over_rank",
        lambda d: (rewrite(d, rank_of(128)), configure(d, r=128)),
    ),
    "rank hidden in the weights": ("over_rank", lambda d: rewrite(d, rank_of(128))),
    "head": (
        "foreign_modules",
        lambda d: rewrite(d, put("base_model.model.lm_head.lora_A.weight", ROGUE)),
    ),
    "no LoRA weight at all": (
        "foreign_modules",
        lambda d: rewrite(d, put("model.embed_tokens.weight", ROGUE)),
    ),
    "modules_to_save in the config": (
        "modules_to_save",
        lambda d: configure(d, modules_to_save=["lm_head"]),
    ),
    "modules_to_save in the weights": (
        "modules_to_save",
        lambda d: rewrite(d, put("base_model.model.lm_head.modules_to_save.weight", ROGUE)),
    ),
    "dora in the config": ("dora", lambda d: configure(d, use_dora=True)),
    "dora in the weights": (
        "dora",
        lambda d: rewrite(d, put(f"{FIRST}.lora_magnitude_vector", ROGUE)),
    ),
    "a name twice in the header": ("duplicate_keys", lambda d: reheader(d, twice)),
    "a name twice in the config": (
        "duplicate_keys",
        lambda d: (d / CONFIG).write_text('{"r": 4, "r": 8}'),
    ),
    "a file too many": ("extra_files", lambda d: (d / "README.md").write_text("hello")),
    "a folder": ("extra_files", lambda d: (d / "more").mkdir()),
    "pickle beside": ("pickle", lambda d: (d / "adapter_model.bin").write_bytes(b"")),
    "pickle instead": (
        "pickle",
        lambda d: (d / WEIGHTS).rename(d / "adapter_model.pt"),
    ),
    "pickle in disguise": (
        "pickle",
        lambda d: (d / WEIGHTS).write_bytes(pickle.dumps({"a": 1})),
    ),
    "link": ("path_traversal", link),
    "path in a tensor's name": (
        "path_traversal",
        lambda d: rewrite(d, put("../../etc/passwd", ROGUE)),
    ),
    "path in the config": (
        "path_traversal",
        lambda d: configure(d, base_model_name_or_path="../../other"),
    ),
    "config is no JSON": ("malformed", lambda d: (d / CONFIG).write_text("{")),
    "config is a list": ("malformed", lambda d: (d / CONFIG).write_text("[]")),
    "not LoRA": ("malformed", lambda d: configure(d, peft_type="IA3")),
    "rank patterns": ("malformed", lambda d: configure(d, rank_pattern={"q_proj": 8})),
    "rslora": ("malformed", lambda d: configure(d, use_rslora=True)),
    "bias": ("malformed", lambda d: configure(d, bias="all")),
    "alpha not finite": ("malformed", lambda d: configure(d, lora_alpha=float("nan"))),
    "no partner": ("malformed", lambda d: rewrite(d, one_sided)),
    "integers": (
        "malformed",
        lambda d: reheader(d, lambda text: text.replace('"F32"', '"I32"', 1)),
    ),
    "overlapping": (
        "malformed",
        lambda d: reheader(d, lambda text: text.replace("[0, 256]", "[64, 320]", 1)),
    ),
    "bytes behind the end": (
        "malformed",
        lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes() + b"more"),
    ),
    "header is no JSON": ("malformed", lambda d: reheader(d, lambda text: "x" + text)),
    "digest in the record": (
        "digest_mismatch",
        lambda d: (d / RECORD).write_text(json.dumps({"content": digest_bytes(b"other")})),
    ),
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    write_adapter(folder, BASE)
    return folder


def check(folder: Path, expected: Digest | None = None) -> Digest:
    return verify_adapter(folder, BASE, SHAPE, expected=expected)


def test_a_good_adapter_passes(adapter: Path) -> None:
    digest = check(adapter)
    assert check(adapter, digest) == digest


def test_other_float_types_pass(adapter: Path) -> None:
    rewrite(adapter, lambda tensors: tensors.update({n: brain(t) for n, t in tensors.items()}))
    check(adapter)
    rewrite(
        adapter, lambda tensors: tensors.update({n: t.astype("<f2") for n, t in tensors.items()})
    )
    check(adapter)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_adapter_is_refused_with_its_reason(adapter: Path, case: str) -> None:
    reason, spoil = BAD[case]
    spoil(adapter)
    with pytest.raises(AdapterError) as caught:
        check(adapter)
    assert caught.value.reason == reason, caught.value.message


def test_every_reason_has_a_case() -> None:
    assert {reason for reason, _ in BAD.values()} == set(REASONS)


def test_one_changed_byte_is_seen(adapter: Path) -> None:
    digest = check(adapter)
    data = bytearray((adapter / WEIGHTS).read_bytes())
    data[-4] ^= 1
    (adapter / WEIGHTS).write_bytes(data)
    with pytest.raises(AdapterError) as caught:
        check(adapter, digest)
    assert caught.value.reason == "digest_mismatch"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_whatever_the_weights_hold_the_answer_is_a_reason(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        write_adapter(folder, BASE)
        (folder / WEIGHTS).write_bytes(data)
        with pytest.raises(AdapterError) as caught:
            check(folder)
        assert caught.value.reason in REASONS


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_whatever_the_header_says_the_answer_is_a_reason(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        write_adapter(folder, BASE)
        reheader(folder, lambda header: header.replace("F32", text, 1))
        reason = REASONS[0]
        try:
            check(folder)
        except AdapterError as error:
            reason = error.reason
        assert reason in REASONS


def run_verify(
    capsys: pytest.CaptureFixture[str], home: Home, folder: Path, *more: str
) -> tuple[int, dict[str, Any]]:
    code = main(["adapter", "verify", str(folder), "--home", str(home.root), "--json", *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_command_needs_no_running_appliance(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = register_base(home, tmp_path)
    folder = tmp_path / "adapter"
    digest = write_adapter(folder, base.digest)
    assert run_verify(capsys, home, folder, "--digest", digest) == (
        0,
        {"ok": True, "reason": None, "detail": {"digest": digest, "base": base.digest}},
    )
    (folder / "notes.txt").write_text("x")
    code, answer = run_verify(capsys, home, folder)
    assert (code, answer["ok"], answer["reason"]) == (3, False, "extra_files")


def test_the_command_tells_every_bad_adapter_by_its_code(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = register_base(home, tmp_path)
    said: dict[str, str] = {}
    for number, (case, (reason, spoil)) in enumerate(BAD.items()):
        folder = tmp_path / f"adapter{number}"
        write_adapter(folder, base.digest)
        spoil(folder)
        code, answer = run_verify(capsys, home, folder)
        assert (code, answer["ok"]) == (3, False), case
        said[case] = answer["reason"]
        assert answer["reason"] == reason, case
        assert answer["next_step"]
    flipped = tmp_path / "flipped"
    digest = write_adapter(flipped, base.digest)
    data = bytearray((flipped / WEIGHTS).read_bytes())
    data[-7] ^= 1
    (flipped / WEIGHTS).write_bytes(data)
    code, answer = run_verify(capsys, home, flipped, "--digest", digest)
    assert (code, answer["reason"]) == (3, "digest_mismatch")
    with capsys.disabled():
        print()
        for case, found in {**said, "a flipped byte, its digest given": answer["reason"]}.items():
            print(f"  {found:16} {case}")


def test_the_command_finds_a_base_by_the_name_that_peft_wrote(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_base(home, tmp_path)
    folder = tmp_path / "adapter"
    write_adapter(folder, BASE)
    configure(folder, base_model_name_or_path="tiny")
    assert run_verify(capsys, home, folder)[0] == 0


def test_a_base_that_is_not_here_is_the_wrong_base(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    write_adapter(folder, BASE)
    code, answer = run_verify(capsys, home, folder)
    assert (code, answer["reason"]) == (3, "wrong_base")
