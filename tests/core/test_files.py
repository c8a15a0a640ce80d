"""Publishing: whoever reads sees the old bytes or the new ones."""

import errno
import os
from pathlib import Path

import pytest

from appliance.core.errors import UnavailableError
from appliance.core.files import publish


def test_the_new_bytes_stand_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "name"
    publish(path, b"old")
    publish(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_fsync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path, calls, real = tmp_path / "name", iter(range(1, 9)), os.fsync
    publish(path, b"old")

    def fsync(descriptor: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UnavailableError, match="Input/output error"):
        publish(path, b"new")
    assert path.read_bytes() == (b"old" if failing == 1 else b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot write"):
        publish(tmp_path / "nowhere" / "name", b"x")
