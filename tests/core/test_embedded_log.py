"""What only files can suffer: torn tails, bit rot, a full disk, an fsync that fails."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.core.embedded_log import EmbeddedLog
from appliance.core.errors import IntegrityError, UnavailableError
from appliance.core.log_frames import pack
from tests.core.conftest import LogPlace
from tests.core.log_files import expected, fill, read, segment, values

# --- the disk says no ------------------------------------------------------------------------


def test_nothing_is_acknowledged_when_fsync_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fill(folder, 2)
    before = log.end()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _failing(errno.EIO))
        for _ in range(3):
            with pytest.raises(UnavailableError, match="did not take the records"):
                log.append([("key", b"never acknowledged")])
    assert log.end() == before
    log.append([("key", b"value-2")])
    log.close()
    assert values(folder) == expected(0, 1, 2)
    assert len(list(folder.glob("*.segment"))) == 2, "the segment whose fsync failed is left"


def test_every_append_is_fsynced_before_it_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EmbeddedLog(folder)
    synced: list[tuple[str, int]] = []
    real = os.fsync

    def watch(descriptor: int) -> None:
        real(descriptor)
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append((path, os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", watch)
    for _ in range(5):
        log.append([("key", b"value")])
        assert synced[-1] == (str(segment(folder)), segment(folder).stat().st_size)
    assert len(synced) == 5
    log.close()


def test_what_is_written_outlives_a_writer_that_is_killed_before_the_flush(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fill(folder, 2)
    written: list[bool] = []

    def killed(_: int) -> None:
        assert written == [True], "it was not said before the flush"
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            log.append([("key", b"value-2")], on_written=lambda: written.append(True))
    assert values(folder) == expected(0, 1, 2)


def test_a_first_fsync_that_fails_does_not_stop_the_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EmbeddedLog(folder)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _failing(errno.EIO))
        with pytest.raises(UnavailableError):
            log.append([("key", b"never acknowledged")])
    log.append([("key", b"value-0")])
    log.append([("key", b"value-1")])
    log.close()
    assert values(folder) == expected(0, 1)
    assert len(list(folder.glob("*.segment"))) == 2, "the segment whose fsync failed is left"


def test_what_lies_beyond_a_begun_segment_was_never_there(folder: Path) -> None:
    """The cut after a failed fsync may itself be lost in a power cut."""
    fill(folder, 2).close()
    with segment(folder).open("ab") as file:
        file.write(pack(2, b"key", b"never acknowledged"))
    (folder / f"{2:020d}.segment").write_bytes(pack(2, b"key", b"value-2"))
    (folder / "tail").unlink()
    assert values(folder) == expected(0, 1, 2)


def test_a_write_that_stops_half_way_is_undone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fill(folder, 2)
    size, real, calls = segment(folder).stat().st_size, os.pwrite, iter(range(99))

    def half(descriptor: int, data: memoryview, position: int) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:5], position)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", half)
        with pytest.raises(UnavailableError, match="No space left"):
            log.append([("key", b"does not fit")])
    assert segment(folder).stat().st_size == size
    log.append([("key", b"value-2")])
    log.close()
    assert values(folder) == expected(0, 1, 2)


def test_a_full_disk_refuses_and_loses_nothing(folder: Path) -> None:
    log, acknowledged = EmbeddedLog(folder), 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UnavailableError, match="free some space"):  # noqa: PT012  (one of many)
            while True:
                log.append([("key", f"value-{acknowledged}".encode())])
                acknowledged += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert acknowledged > 100
    log.append([("key", f"value-{acknowledged}".encode())])
    log.close()
    assert values(folder) == expected(*range(acknowledged + 1))


_FULL_TMPFS = """
mount -t tmpfs -o size=128k none "$1" && cd "$1" || exit 77
"$2" - "$1/log" <<'PY'
import os, sys
from pathlib import Path
from appliance.core.embedded_log import EmbeddedLog
from appliance.core.errors import UnavailableError
ballast = Path("ballast"); ballast.write_bytes(b"x" * 40_000)
log = EmbeddedLog(Path(sys.argv[1]), segment_bytes=8192)
done = []
def fill():
    while True:
        try:
            log.append([("k", b"%d" % len(done) + b" " * 500)])
        except UnavailableError as error:
            assert "No space left" in str(error), error
            return
        done.append(len(done))
fill(); full = len(done); assert full > 20
ballast.unlink()
fill(); assert len(done) > full
found = [int(e.value) for e in log.read("g", max_records=9999, timeout_s=0)]
assert found == done, (found, done)
try:
    log.commit("g")
except UnavailableError:
    print("a position needs room too")
print("ok", len(done))
PY
"""


def test_a_full_file_system_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", _FULL_TMPFS, "sh"]
    done = subprocess.run(
        [*command, str(tmp_path), sys.executable], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no private mount can be made here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ok")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("when", ["4", "5..9", "7+3", "12+"])
def test_a_kernel_whose_fsync_fails_loses_nothing_acknowledged(
    embedded_place: LogPlace, when: str
) -> None:
    inject = f"inject=fsync,fdatasync:error=EIO:when={when}"
    child = embedded_place.start_child("strace", "-f", "-qq", "-o", os.devnull, "-e", inject)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(60)]
    child.communicate("")
    refused = [line for line in lines if line.startswith("refused")]
    if not lines[0]:
        pytest.skip("strace may not trace here")
    assert refused, "the fault was really injected"
    acknowledged = {line.strip() for line in lines} - {line.strip() for line in refused}
    found = {entry.value.decode() for entry in read(embedded_place.open())}
    assert acknowledged <= found


# --- many at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_threads_share_an_fsync_and_its_fate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    log, calls, outcomes = EmbeddedLog(folder), [], []
    real = os.fsync

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        time.sleep(0.1)
        if fails:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    def work() -> None:
        try:
            log.append([("key", b"value")])
            outcomes.append("acknowledged")
        except UnavailableError:
            outcomes.append("refused")

    with monkeypatch.context() as slowed:
        slowed.setattr(os, "fsync", slow)
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == ["refused" if fails else "acknowledged"] * 16
    assert len(calls) <= 6, "one fsync for all who waited"
    assert log.end() == {0: 0 if fails else 16}
    log.close()


def test_processes_take_turns(embedded_place: LogPlace) -> None:
    children = [embedded_place.start_child() for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        for _ in range(40):
            child.stdout.readline()
    children[0].kill()
    outputs = [child.communicate("")[0] for child in children]
    log = embedded_place.open()
    entries = read(log)
    assert log.damaged == 0
    assert [entry.offset for entry in entries] == list(range(len(entries)))
    assert len(entries) >= sum(len(output.split()) for output in outputs) + 3 * 40


def test_a_reader_never_sees_what_is_not_durable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, reader = fill(folder, 1), EmbeddedLog(folder)
    seen: list[int] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append(len(reader.read("spy", max_records=9, timeout_s=0)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    log.append([("key", b"value-1")])
    assert seen == [1], "the record in flight is not shown"
    assert len(reader.read("spy", max_records=9, timeout_s=0)) == 1
    log.close()
    reader.close()


def test_an_offset_that_a_consumer_has_passed_is_not_given_again(folder: Path) -> None:
    """A power cut may take back records that a consumer has seen, if the disk lied about fsync."""
    log = fill(folder, 5)
    read(log)
    log.commit("reader")
    log.close()
    os.truncate(segment(folder), 0)
    fill(folder, 1).close()
    assert values(folder) == expected(0)


def test_segments_are_begun_and_read_across(folder: Path) -> None:
    log = EmbeddedLog(folder, segment_bytes=500)
    for number in range(100):
        log.append([("key", f"value-{number}".encode())])
    assert len(list(folder.glob("*.segment"))) > 5
    taken = log.read("reader", max_records=30, timeout_s=0)
    log.commit("reader")
    log.close()
    assert [e.value for e in taken] + values(folder) == expected(*range(100))


def test_a_segment_begun_by_a_writer_that_died_is_used(folder: Path) -> None:
    log = fill(folder, 3)
    (folder / f"{3:020d}.segment").touch()
    log.append([("key", b"value-3")])
    log.close()
    assert values(folder) == expected(0, 1, 2, 3)
    assert (folder / f"{3:020d}.segment").stat().st_size > 0


def test_a_damaged_position_says_what_to_do(folder: Path) -> None:
    log = fill(folder, 1)
    read(log)
    log.commit("reader")
    log.close()
    (folder / "positions" / "reader").write_bytes(b"\x00\x00")
    again = EmbeddedLog(folder)
    with pytest.raises(IntegrityError, match="delete"):
        again.position("reader")
    again.append([("key", b"value-1")])
    again.close()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="cannot open the event log"):
        EmbeddedLog(tmp_path / "file" / "log")


def _failing(number: int) -> Callable[[int], None]:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return fail
