"""An adapter's identity covers its weights, its configuration and its base, and nothing else."""

from pathlib import Path

import pytest

from appliance.core.adapters import CONFIG, RECORD, WEIGHTS, content_digest
from appliance.core.digests import Digest, digest_bytes

_BASE = digest_bytes(b"base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    (tmp_path / CONFIG).write_bytes(b"{}")
    return tmp_path


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_one_changed_byte_is_another_adapter(folder: Path, name: str) -> None:
    before = content_digest(folder, _BASE)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert content_digest(folder, _BASE) != before


def test_another_base_is_another_adapter(folder: Path) -> None:
    assert content_digest(folder, _BASE) != content_digest(folder, Digest(digest_bytes(b"other")))


def test_the_record_names_it_and_is_no_part_of_it(folder: Path) -> None:
    before = content_digest(folder, _BASE)
    (folder / RECORD).write_bytes(b"{}")
    assert content_digest(folder, _BASE) == before


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_missing_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError):
        content_digest(folder, _BASE)
