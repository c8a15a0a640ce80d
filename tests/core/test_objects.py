"""The object store: content-addressed, atomic, verified on read."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.core import objects
from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import IntegrityError, NotFoundError, RecordError, UnavailableError
from appliance.core.objects import ObjectStore


def _files(store_root: Path) -> list[Path]:
    return [path for path in store_root.rglob("*") if path.is_file()]


def test_bytes_come_back_by_their_digest(store: ObjectStore) -> None:
    items = [b"", b"one", b"two" * 100_000, bytes(range(256))]
    digests = store.put_many(items)
    assert digests == [digest_bytes(data) for data in items]
    assert [store.get(digest) for digest in digests] == items


def test_the_same_bytes_are_kept_once(store: ObjectStore, home_objects: Path) -> None:
    assert store.put(b"same") == store.put(b"same")
    assert len(_files(home_objects)) == 1


def test_what_is_not_here_is_not_found(store: ObjectStore) -> None:
    digest = digest_bytes(b"never put")
    assert not store.has(digest)
    with pytest.raises(NotFoundError, match="no object"):
        store.get(digest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:", "sha256:" + "A" * 64, "md5:00"])
def test_only_a_digest_is_a_name(store: ObjectStore, name: str) -> None:
    with pytest.raises(RecordError, match="64 hex digits"):
        store.get(Digest(name))


@pytest.mark.parametrize("damage", [b"", b"some othe", b"some other bytes and more"])
def test_damage_is_seen_and_mended_by_the_next_put(
    store: ObjectStore, home_objects: Path, damage: bytes
) -> None:
    digest = store.put(b"some bytes")
    (path,) = _files(home_objects)
    path.chmod(0o644)
    path.write_bytes(damage)
    with pytest.raises(IntegrityError, match="damaged on disk"):
        store.get(digest)
    store.put(b"some bytes")
    assert store.get(digest) == b"some bytes"


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "rename")])
def test_what_the_disk_refuses_is_not_stored(
    store: ObjectStore,
    home_objects: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    call: str,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(owner, call, fail)
        with pytest.raises(UnavailableError, match="No space left"):
            store.put(b"does not fit")
    assert not store.has(digest_bytes(b"does not fit"))
    assert _files(home_objects) == [], "no half-written file is left"
    assert store.get(store.put(b"does not fit")) == b"does not fit"


def test_every_object_is_fsynced_before_its_name_stands(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        folder = Path(f"/proc/self/fd/{descriptor}").is_dir()
        happened.append("fsync folder" if folder else "fsync file")
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        happened.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    store.put(b"bytes")
    assert happened == ["fsync file", "rename", "fsync folder", "fsync folder"]


def test_many_objects_are_flushed_before_any_name_stands(
    store: ObjectStore, home_objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    real_sync, real_rename = objects.sync_filesystem, Path.rename

    def sync(folder: Path) -> None:
        happened.append("flush")
        real_sync(folder)

    def rename(path: Path, target: Path) -> Path:
        happened.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(objects, "sync_filesystem", sync)
    monkeypatch.setattr(Path, "rename", rename)
    many = [str(number).encode() for number in range(20)]
    digests = store.put_many(many)
    assert happened == ["flush", *["rename"] * 20, "flush"]
    assert [store.get(digest) for digest in digests] == many

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(objects, "sync_filesystem", fail)
    with pytest.raises(UnavailableError, match="Input/output error"):
        store.put_many([data + b"!" for data in many])
    assert len(_files(home_objects)) == 20


_PUTTER = """
import sys
from pathlib import Path
from appliance.core.objects import ObjectStore
store = ObjectStore(Path(sys.argv[1]))
for number in range(10**6):
    print(store.put(str(number).encode() * 5000), flush=True)
"""


def test_kill_9_leaves_whole_objects(store: ObjectStore, home_objects: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _PUTTER, str(home_objects)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.1)
    child.kill()
    lines = child.stdout.read().split()
    child.communicate()
    for digest in lines:
        store.get(Digest(digest))
    for path in home_objects.glob("??/*"):
        store.get(Digest(f"sha256:{path.parent.name}{path.name}"))
