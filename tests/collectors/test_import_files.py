"""`espalier import`: the files of the data folder, bad files, and importing twice."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Feedback, Trajectory, decode
from appliance.core.settings import Settings
from appliance.core.tables import trajectories, turns
from collectors.command import main
from collectors.importing import stream
from collectors.importing.importer import FileReport, Source
from collectors.importing.run import import_files
from collectors.service import serve

SOURCE = Source(label="internal")
GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def run(home: Home, *paths: Path) -> list[FileReport]:
    return import_files(home, Settings(), list(paths), SOURCE)


def write(path: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def sealed(home: Home) -> list[Trajectory]:
    database, store = Database.open(home.database), ObjectStore(home.objects)
    with database.read() as connection:
        rows = connection.execute(trajectories.select().order_by("trajectory_id")).all()
    database.close()
    assert all(row.state == "sealed" for row in rows)
    return [decode(store.get(row.object), Trajectory) for row in rows]


def test_the_real_files_are_all_read(home: Home, data: Callable[[str], Path]) -> None:
    files = [data("tau_bench_airline_gpt4o.json"), *sorted(data("swe_agent").glob("*.traj"))]
    reports = run(home, *files)
    assert [report.file for report in reports] == [str(file) for file in files]
    assert (reports[0].trajectories, reports[0].successes) == (100, 49)
    assert [report.trajectories for report in reports[1:]] == [1] * 5
    assert all(report.clean and not report.num_skipped for report in reports)
    found = sealed(home)
    assert len(found) == 105
    assert sum(one.outcome == "ok" for one in found) == 49
    assert sum(len(one.nodes) for one in found) == sum(report.turns for report in reports)
    # Answers of one record form one line, each going on from the one before it.
    assert all(node.parent == i - 1 for one in found for i, node in enumerate(one.nodes) if i)


def test_importing_twice_doubles_nothing(home: Home, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, {**GOOD, "task": "t"})
    first, again = run(home, file), run(home, file)
    assert first == again
    assert first[0].trajectories == 2
    assert [one.version for one in sealed(home)] == [1, 1]


def test_the_raw_record_is_kept_without_its_secrets(home: Home, tmp_path: Path) -> None:
    secret = "sk-ant-api03-" + "Zk9" * 31 + "AA"
    run(home, write(tmp_path / "a.jsonl", {**GOOD, "note": f"key {secret}", "extra": [1]}))
    store = ObjectStore(home.objects)
    (one,) = sealed(home)
    tags = [decode(store.get(digest), Feedback).tags for digest in one.feedback]
    raw = store.get(tags[0]["raw"])
    assert json.loads(raw)["extra"] == [1]
    assert b"Zk9Zk9" not in raw
    assert b"[redacted:" in raw


def test_log_lines_of_one_conversation_are_one_trajectory(home: Home, tmp_path: Path) -> None:
    def line(messages: list[Any], text: str) -> dict[str, Any]:
        choice = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"request": {"messages": messages}, "response": {"choices": [choice]}}

    user = {"role": "user", "content": "q"}
    echo = {"role": "assistant", "content": "a1"}
    file = write(
        tmp_path / "log.jsonl",
        line([user], "a1"),
        line([{"role": "user", "content": "other"}], "b1"),
        line([user, echo, user], "a2"),
    )
    (report,) = run(home, file)
    assert (report.trajectories, report.turns) == (2, 3)
    assert sorted(len(one.nodes) for one in sealed(home)) == [1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x1f\x8b\x08\0\0", "gzip"),
        (b"PK\x03\x04aaaa", "zip"),
        (b"{\0\0\0", "NUL"),
        (b"\xff\xfe{\0", "UTF-16"),
        (b'{"messages": "\xe9\xe9"}', "UTF-8"),
        (b"", "empty"),
        (b"just words\nand more\n", "does not hold JSON"),
        (b'{"messages": [{"role"', "cut off"),
        (b"[1, 2, 3]", "no trajectory"),
        (b'{"a": 1}', "no known format"),
        (b"[" * 100_000, "no trajectory"),
        (b'{"a":' * 100_000, "no trajectory"),
    ],
)
def test_a_bad_file_is_refused_and_the_good_one_imported(
    home: Home, tmp_path: Path, content: bytes, says: str
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    good = write(tmp_path / "good.jsonl", GOOD)
    first, second = run(home, bad, good)
    assert not first.clean
    assert says in str(first.error)
    assert second.clean
    assert len(sealed(home)) == 1


def test_a_bad_line_is_skipped_and_named(home: Home, tmp_path: Path) -> None:
    half = {"messages": [{"role": "user", "content": "\ud800"}, GOOD["messages"][1]]}
    nan = json.dumps({**GOOD, "cost": float("nan")})
    file = write(tmp_path / "a.jsonl", "{broken", GOOD, {"other": 1}, GOOD, half, nan)
    (report,) = run(home, file)
    assert [(s.where, s.reason) for s in report.skipped] == [
        ("line 1", "malformed"),
        ("line 3", "unknown_format"),
        ("line 4", "duplicate"),
        ("line 5", "malformed"),
    ]
    assert report.trajectories == 2
    assert not report.clean


def test_one_record_over_many_lines_and_arrays_are_read(home: Home, tmp_path: Path) -> None:
    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(GOOD, indent=2))
    array = tmp_path / "array.json"
    array.write_bytes(b"\xef\xbb\xbf" + json.dumps([{**GOOD, "n": i} for i in range(3)]).encode())
    reports = run(home, pretty, array)
    assert [report.trajectories for report in reports] == [1, 3]


def test_records_split_at_every_place_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = [{"a": 'br{ac"es\\', "b": [{"c": "}"}]}, {"d": "\\\\"}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(values))
    for size in range(1, 40):
        monkeypatch.setattr(stream, "_CHUNK_BYTES", size)
        found = [one.value for one in stream.records(file) if isinstance(one, stream.Found)]
        assert found == values


def test_100_mb_files_are_read_in_bounded_memory(home: Home, tmp_path: Path) -> None:
    """In a process of its own, whose memory can be measured."""
    good = json.dumps(GOOD).encode()
    mebibyte = 1 << 20
    with (tmp_path / "sparse").open("wb") as out:
        out.truncate(100 * mebibyte)
    with (tmp_path / "one_line").open("wb") as out:
        out.write(b'{"messages": [')
        out.writelines(b"x" * mebibyte for _ in range(100))
    with (tmp_path / "array").open("wb") as out:
        out.write(b"[" + good + b', {"traj": "')
        out.writelines(b"[{" * (mebibyte // 2) for _ in range(100))
    with (tmp_path / "many_lines").open("wb") as out:
        out.write(good + b"\n")
        out.writelines(b"{" + b" " * mebibyte + b"\n" for _ in range(100))
    write(tmp_path / "good", {**GOOD, "n": 1})
    names = ["sparse", "one_line", "array", "many_lines", "good"]
    code = (
        "import pathlib, re, sys\nfrom collectors.command import main\n"
        "code = main(sys.argv[1:])\n"
        # Not ru_maxrss: it counts what this process held before exec, when it was a fork of pytest.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "import", "--home", str(home.root), "--json"]
        + [str(tmp_path / name) for name in names],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 2, ended.stderr
    files = json.loads(ended.stdout.splitlines()[-1])["files"]
    assert [file["trajectories"] for file in files] == [0, 0, 1, 1, 1]
    assert all(file["error"] or file["faults"] for file in files[:4])
    assert files[3]["num_skipped"] == 100
    assert int(ended.stderr.split()[-1]) < 600, "MiB at its peak"


def test_the_command_reports_per_file_and_ends_non_zero(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good.jsonl", GOOD)
    missing = tmp_path / "none.json"
    code = main(
        ["import", "--home", str(home.root), "--json", str(missing), str(good), str(tmp_path)]
    )
    printed = capsys.readouterr()
    files = json.loads(printed.out.splitlines()[-1])["files"]
    assert code == 2
    assert [f["trajectories"] for f in files] == [0, 1, 0]
    assert "no such file" in printed.err
    assert "not a regular file" in printed.err
    assert main(["import", "--home", str(home.root), str(good)]) == 0


def test_a_persons_word_on_the_outcome_counts(home: Home, tmp_path: Path) -> None:
    file = write(tmp_path / "good.jsonl", GOOD)
    source = Source(label="internal", outcome="ok")
    (report,) = import_files(home, Settings(), [file], source)
    assert report.successes == 1
    assert sealed(home)[0].outcome == "ok"


def test_import_while_the_collectors_run(home: Home, tmp_path: Path) -> None:
    stop = threading.Event()
    serving = threading.Thread(target=serve, args=(home, Settings()), kwargs={"stop": stop})
    serving.start()
    try:
        run(home, write(tmp_path / "a.jsonl", GOOD))
        assert len(sealed(home)) == 1
    finally:
        stop.set()
        serving.join()


def test_a_label_above_the_gateways_is_refused(home: Home, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD)
    (report,) = import_files(home, Settings(), [file], Source(label="secret"))
    assert "label" in str(report.error)
    assert not report.clean


def test_nothing_is_left_in_the_index_twice(home: Home, tmp_path: Path) -> None:
    run(home, write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.jsonl", GOOD))
    database = Database.open(home.database)
    with database.read() as connection:
        assert len(connection.execute(turns.select()).all()) == 1
    database.close()


def test_a_record_nested_too_deeply_is_skipped_and_the_rest_imported(
    home: Home, tmp_path: Path
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = write(tmp_path / "f.jsonl", {"messages": chat, "more": deep}, {"messages": chat})
    (report,) = run(home, path)
    assert (report.trajectories, report.num_skipped) == (1, 1)
    assert report.skipped[0].detail == "nested too deeply"
