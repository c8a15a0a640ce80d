"""What a disk does to the log's bytes: torn tails, lost files, flipped bits, junk."""

import os
import random
import shutil
from pathlib import Path

import pytest

from appliance.core.embedded_log import EmbeddedLog
from tests.core.log_files import FRAME_BYTES, expected, fill, read, segment, values


@pytest.mark.parametrize("tail", ["before", "lost", "ahead"])
def test_a_tail_torn_at_any_byte_loses_only_the_torn_record(
    folder: Path, tmp_path: Path, tail: str
) -> None:
    log = fill(folder, 2)
    before = (folder / "tail").read_bytes()
    log.append([("key", b"value-2")])
    log.close()
    if tail == "before":
        (folder / "tail").write_bytes(before)
    elif tail == "lost":
        (folder / "tail").unlink()
    size = segment(folder).stat().st_size
    for cut in range(size - FRAME_BYTES, size):
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(folder, copy)
        os.truncate(segment(copy), cut)
        torn = EmbeddedLog(copy)
        assert segment(copy).stat().st_size == 2 * FRAME_BYTES, "the torn record is cut off"
        torn.append([("key", b"value-3")])
        assert [e.value for e in read(torn)] == expected(0, 1, 3), f"cut at byte {cut} of {size}"
        assert torn.damaged == 0, "the torn record is gone, not skipped each time"
        torn.close()


def test_a_tail_of_junk_is_cut_off(folder: Path) -> None:
    fill(folder, 2).close()
    with segment(folder).open("ab") as file:
        file.write(b"\x00" * 4096)
    (folder / "tail").unlink()
    fill(folder, 1).close()
    assert values(folder) == expected(0, 1, 0)


def test_records_survive_a_lost_tail_file(folder: Path) -> None:
    fill(folder, 5).close()
    (folder / "tail").unlink()
    assert values(folder) == expected(*range(5))


@pytest.mark.parametrize("place", range(24))
def test_a_spoiled_tail_file_is_made_anew(folder: Path, place: int) -> None:
    fill(folder, 5).close()
    spoiled = bytearray((folder / "tail").read_bytes())
    spoiled[place] ^= 0x41
    (folder / "tail").write_bytes(spoiled)
    log = EmbeddedLog(folder)
    assert log.end() == {0: 5}
    assert [entry.value for entry in read(log)] == expected(*range(5))
    log.close()


@pytest.mark.parametrize("place", range(FRAME_BYTES))
def test_one_flipped_bit_costs_one_record(folder: Path, place: int) -> None:
    log = fill(folder, 5)
    with segment(folder).open("r+b") as file:
        file.seek(2 * FRAME_BYTES + place)
        byte = file.read(1)[0]
        file.seek(2 * FRAME_BYTES + place)
        file.write(bytes([byte ^ 0x10]))
    assert [e.value for e in read(log)] == expected(0, 1, 3, 4)
    assert log.damaged == 1
    log.append([("key", b"value-5")])
    assert [e.value for e in read(log)] == expected(5)
    log.close()


def test_random_junk_in_the_middle_is_skipped_and_reported(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = EmbeddedLog(folder)
    log.append([("key", f"value-{number}".encode()) for number in range(2000)])
    data = bytearray(segment(folder).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1000] = random.Random(0).randbytes(1000)
    segment(folder).write_bytes(data)
    found = [e.value for e in read(log)]
    log.close()
    assert 2000 - 30 < len(found) < 2000
    assert found == sorted(found, key=lambda value: int(value[6:]))
    assert log.damaged == 1
    assert "skipped" in caplog.text


def test_damage_before_the_tail_is_never_cut_off(folder: Path) -> None:
    fill(folder, 3).close()
    with segment(folder).open("r+b") as file:
        file.seek(4)
        file.write(b"\xff\xff\xff")
    (folder / "tail").unlink()
    assert values(folder) == expected(1, 2)
