"""Digests: the algorithm's name in the digest, canonical bytes under it."""

import hashlib
from pathlib import Path

import pytest

from appliance.core.digests import (
    canonical_json,
    digest_bytes,
    digest_file,
    digest_files,
    digest_json,
    parse_digest,
    short,
)
from appliance.core.errors import RecordError


def test_a_digest_names_its_algorithm() -> None:
    expected = hashlib.sha256(b"abc").hexdigest()
    assert digest_bytes(b"abc") == f"sha256:{expected}"
    assert short(digest_bytes(b"abc")) == expected[:12]


def test_the_order_of_keys_and_the_form_of_numbers_do_not_matter() -> None:
    assert digest_json({"b": 1, "a": [1.0, "ü"]}) == digest_json({"a": [1, "ü"], "b": 1})
    assert canonical_json({"b": 1e21, "a": 0.1}) == b'{"a":0.1,"b":1e+21}'


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, "\ud800", {"a": {1, 2}}, b"bytes"]
)
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(RecordError, match="no canonical JSON form"):
        digest_json(value)


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    data = b"x" * (3 << 20) + b"end"
    (tmp_path / "large").write_bytes(data)
    assert digest_file(tmp_path / "large") == digest_bytes(data)


def test_files_are_digested_by_name_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    digest = digest_files(tmp_path, ["a", "b"])
    assert digest == digest_files(tmp_path, ["b", "a"])
    (tmp_path / "a").write_bytes(b"2")
    (tmp_path / "b").write_bytes(b"1")
    assert digest != digest_files(tmp_path, ["a", "b"])


def test_a_digest_is_parsed_whole() -> None:
    digest = digest_bytes(b"")
    assert parse_digest(digest) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "md5:" + "a" * 64,
        "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "g" * 64,
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(RecordError, match="64 hex digits"):
        parse_digest(text)
