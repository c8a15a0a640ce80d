"""Bad input, as an operator meets it: one message, its next step, a non-zero exit, nothing lost.

Each test gives a whole appliance something bad through its own door, and after each one every
process is the one that it was and an agent gets its answer.
"""

import json
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.core.adapters import WEIGHTS
from appliance.core.digests import digest_bytes
from appliance.demo import company as company_room
from appliance.engine.bases import Registry
from tests.control.conftest import COMMAND, GATES, ROOT, Ended, Running
from tests.serving import conftest as serving

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
WORDS = Path(company_room.__file__).parent / "companies" / "words.toml"


@pytest.fixture(autouse=True)
def _still_well(running: Running) -> Iterator[None]:
    before = {part["name"]: part["pid"] for part in running.state["parts"]}
    yield
    running.require_well()
    assert {part["name"]: part["pid"] for part in running.state["parts"]} == before


def require_one_message(ended: Ended, says: str) -> None:
    """Exactly one, with the next step, and no traceback."""
    assert ended.code > 0
    first, second = ended.message.strip().splitlines()[-2:]
    assert ended.message.count("espalier: ") == 1, ended.message
    assert says in first, ended.message
    assert second.startswith("  next: "), ended.message
    assert len(second) > len("  next: ")
    assert "Traceback" not in ended.message


def many_megabytes(path: Path) -> None:
    with path.open("wb") as out:
        out.write(b'{"messages": [')
        out.writelines(b"x" * (1 << 20) for _ in range(100))


@pytest.mark.parametrize(
    ("make", "says", "taken"),
    [
        (lambda path: path.write_text('{"messages": [{"role"'), "it was cut off", 0),
        (lambda path: path.write_bytes(b"\0\1\2" * 1000), "is binary", 0),
        (many_megabytes, "at most 64 MiB", 0),
        (
            lambda path: path.write_text(json.dumps(GOOD) + "\n{broken\n"),
            "1 of its records could not be read, the rest was imported",
            1,
        ),
    ],
    ids=["malformed", "binary", "100 MB", "one bad line"],
)
def test_an_import_file(
    running: Running, make: Callable[[Path], Any], says: str, taken: int
) -> None:
    path = running.scratch / "import.jsonl"
    make(path)
    ended = running.run("import", str(path), "--json")
    require_one_message(ended, says)
    assert (ended.code, ended.json["files"][0]["trajectories"]) == (2, taken)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "model.safetensors"])
def test_a_base_with_pickle_weights(running: Running, name: str) -> None:
    folder = running.scratch / "pickled"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    base = Registry(running.home).get("small").path
    for file in ("config.json", "tokenizer.json"):
        shutil.copyfile(base / file, folder / file)
    (folder / name).write_bytes(b"\x80\x04" + b"." * 100)
    source = folder / name if name.endswith("gguf") else folder
    before = running.run("base", "list").out
    ended = running.run("base", "add", str(source))
    says = {"bin": "pickled files", "gguf": "expected a GGUF file"}.get(
        name.rpartition(".")[2], "is not a safetensors file"
    )
    require_one_message(ended, says)
    assert running.run("base", "list").out == before


def other_base(running: Running, folder: Path) -> None:
    serving.write_adapter(folder, digest_bytes(b"another base"))


def other_shape(running: Running, folder: Path) -> None:
    serving.write_adapter(folder, Registry(running.home).get("small").digest)


def with_nan(running: Running, folder: Path) -> None:
    base = Registry(running.home).get("small")
    config = json.loads((base.path / "config.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "SHAPE", {name: config[name] for name in serving.SHAPE})
        serving.write_adapter(folder, base.digest)
        tensors = serving.lora_tensors(0)
    next(iter(tensors.values()))[0, 0] = np.nan
    (folder / WEIGHTS).write_bytes(serving.safetensors(tensors))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(other_base, "wrong_base"), (other_shape, "wrong_base"), (with_nan, "nan")],
    ids=["another base", "another shape", "NaN"],
)
def test_an_adapter(
    running: Running, tmp_path: Path, make: Callable[[Running, Path], None], reason: str
) -> None:
    folder = tmp_path / "adapter"
    make(running, folder)
    ended = running.run("adapter", "verify", str(folder), "--json")
    require_one_message(ended, f"{folder}: {reason}: ")
    assert (ended.code, ended.json["ok"], ended.json["reason"]) == (3, False, reason)


def test_an_unknown_setting(running: Running) -> None:
    ended = running.run("up", ESPALIER__GATEWAY__PROT="1")
    require_one_message(ended, "unknown setting gateway.prot")
    kept = running.home.settings.read_text()
    try:
        running.home.settings.write_text(kept + "\n[gatewya]\nport = 1\n")
        require_one_message(running.run("status"), "did you mean gateway?")
        doctor = {f["name"]: f for f in running.run("doctor", "--json").json}
        assert not doctor["settings"]["ok"]
        running.require_well()
    finally:
        running.home.settings.write_text(kept)


@pytest.mark.parametrize("who", ["gateway", "control"])
def test_a_port_in_use(running: Running, tmp_path: Path, who: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(running.home.bases, other / "bases")
    host, port = running.state[who]
    with socket.create_connection((host, port)):
        variables = {f"ESPALIER__{name}__PORT": "0" for name in ("GATEWAY", "CONTROL")}
        variables |= {
            f"ESPALIER__{who.upper()}__PORT": str(port),
            "ESPALIER__ENGINE__BASE": "small",
        }
        ended = running.run("--home", str(other), "up", **variables)
    require_one_message(ended, f"port {port} on {host} cannot be had: Address already in use")
    assert (ended.code, f"set [{who}] port" in ended.message) == (6, True)


def test_a_full_disk_under_the_log(running: Running) -> None:
    """A limit on the size of files stands in for the disk: writing fails at the same places."""
    pid = running.pid("serving")
    chat = {"model": "company-model", "messages": [{"role": "user", "content": "q"}]}
    chat |= {"max_tokens": 2}
    feedback = {"target": {"session": "s"}, "outcome": "ok"}
    number = turns_in_the_lake(running)
    before, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        kept = running.post("/chat/completions", chat)[0]
        status, refused = running.post("/chat/completions", chat)
        assert (kept, status) == (200, 503)
        assert "did not take the records" in refused["error"]["message"]
        assert "next: free some space" in refused["error"]["message"]
        assert running.post("/feedback", feedback)[0] == 503
        shown = running.run("status")
        assert "did not take the records" in shown.out
        doctor = {f["name"]: f for f in running.run("doctor", "--json").json}
        assert "did not take the records" in doctor["event log"]["detail"]
        assert "free some space" in doctor["event log"]["mend"]
        require_one_message(import_with_no_room(running), "File too large")
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (before, hard))
    wait_until(lambda: turns_in_the_lake(running) == number + 1)
    assert running.post("/feedback", feedback)[0] == 200


def import_with_no_room(running: Running) -> Ended:
    path = running.write("good.jsonl", json.dumps({**GOOD, "task": "no room"}))
    ended = subprocess.run(
        [*COMMAND, "import", path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=running.environment(),
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def turns_in_the_lake(running: Running) -> int:
    said = {part["name"]: part["says"] for part in running.run("status", "--json").json["parts"]}
    return int(said["collectors"]["turns"])


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        (
            GATES.replace("lower_95", "lower_59"),
            "unknown metric 'lower_59'; did you mean 'lower_95'",
        ),
        (GATES.replace("metric", "metrik"), "unknown key 'metrik'; did you mean 'metric'"),
    ],
    ids=["metric", "key"],
)
def test_a_gate_file_with_a_misspelt_metric(running: Running, gates: str, says: str) -> None:
    path = running.write("misspelt.toml", gates)
    before = running.run("law", "show", "--json").json
    ended = running.run("law", "set", "gates", path, person="olga")
    require_one_message(ended, says)
    assert running.run("law", "show", "--json").json == before
    status, answer = running.control(
        "PUT", "/law/gates/gates", {"text": gates}, sign_in=("olga", "long enough for a test")
    )
    assert status == 400
    assert says in answer["error"]["message"]
    assert answer["error"]["next_step"]


def test_feedback_for_something_that_never_comes(running: Running) -> None:
    """It may yet come, so the door takes it; `doctor` says that it has not."""
    for target in ({"turn_id": "chatcmpl-nobody"}, {"trajectory_id": "t-nobody"}):
        status, _ = running.post("/feedback", {"target": target, "outcome": "ok"})
        assert status == 200

    def told() -> bool:
        ended = running.run("doctor", "--json")
        assert ended.code == 1
        found = {finding["name"]: finding for finding in ended.json}["feedback"]
        return not found["ok"] and "t-nobody" in found["detail"] and "ids" in found["mend"]

    wait_until(told)
    for malformed in (b"{", {"target": {}, "outcome": "ok"}, {"target": {"session": "s"}}):
        status, answer = running.post("/feedback", malformed)
        assert (status, bool(answer["error"]["message"])) == (400, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('check = "calculation"', ""), "the family has no check"),
        (('"levy", "gross"', '"levy", "tariff"'), "does not know tariff"),
        (('schema = "company/1"', "schema ="), "cannot read company file"),
    ],
    ids=["no check", "unknown word", "no TOML"],
)
def test_a_company_file(running: Running, change: tuple[str, str], says: str) -> None:
    path = running.write("company.toml", WORDS.read_text().replace(*change, 1))
    ended = running.run("demo", "--company", path, "--yes", "--once")
    require_one_message(ended, says)
    assert ended.code == 2
