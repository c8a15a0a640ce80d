"""The sandbox as its callers see it: batches, order, replacement of boxes, choice of kind."""

import threading
import time
import warnings

import pytest

from appliance.core.errors import UnavailableError
from appliance.sandbox import sandbox as sandboxes
from appliance.sandbox.bubblewrap import box_command
from appliance.sandbox.limits import Limits
from appliance.sandbox.programs import Program, Status
from appliance.sandbox.runtime import this_runtime
from appliance.sandbox.sandbox import (
    BubblewrapSandbox,
    Sandbox,
    UnsafeProcessSandbox,
    UnsafeSandboxWarning,
    open_sandbox,
)

pytestmark = pytest.mark.usefixtures("boxes")

ECHO = "def run(answer, case): return [answer, case]"


def double(n: int) -> Program:
    return Program(source="def run(answer, case): return 2 * case", answer="", cases=(n,))


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "_warned", threading.Event())


def test_batch_comes_back_in_order() -> None:
    with BubblewrapSandbox(jobs=2) as sandbox:
        runs = sandbox.run([double(n) for n in range(40)])
    assert [run.outputs for run in runs] == [(2 * n,) for n in range(40)]


def test_one_box_serves_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = BubblewrapSandbox._start
    monkeypatch.setattr(
        BubblewrapSandbox, "_start", lambda self: started.append(self) or start(self)
    )
    with BubblewrapSandbox(jobs=1) as sandbox:
        sandbox.run([double(n) for n in range(20)])
    assert len(started) == 1


def test_answer_may_be_any_text_and_larger_than_a_pipe() -> None:
    answer = 'é\x00"\n' * 50_000
    with BubblewrapSandbox(Limits(output_bytes=1 << 21), jobs=1) as sandbox:
        (run,) = sandbox.run([Program(source=ECHO, answer=answer, cases=({"a": [1.5, None]},))])
    assert run.outputs == ([answer, {"a": [1.5, None]}],)


def test_printed_text_is_kept_apart_from_outputs() -> None:
    source = "import sys\ndef run(a, c):\n print('{\"output\": 9}')\n print('e', file=sys.stderr)"
    with BubblewrapSandbox(jobs=1) as sandbox:
        (run,) = sandbox.run([Program(source=source, answer="", cases=(0,))])
    assert (run.outputs, sorted(run.printed.splitlines())) == ((None,), ["e", '{"output": 9}'])


def test_outputs_before_an_exception_are_kept() -> None:
    source = "def run(a, c): return 1 // c"
    with BubblewrapSandbox(jobs=1) as sandbox:
        (run,) = sandbox.run([Program(source=source, answer="", cases=(1, 0, 1))])
    assert (run.status, run.outputs, run.error) == (Status.RAISED, (1,), "ZeroDivisionError")


def test_order_of_a_set_is_the_same_in_every_box() -> None:
    source = "def run(a, c): return list({'a', 'b', 'c', 'd', 'e', 'f'})"
    seen = set()
    for _ in range(3):
        with BubblewrapSandbox(jobs=1) as sandbox:
            (run,) = sandbox.run([Program(source=source, answer="", cases=(0,))])
        seen.add(tuple(run.outputs[0]))
    assert len(seen) == 1


def test_box_killed_from_outside_is_replaced() -> None:
    slow = Program(source="import time\ndef run(a, c): time.sleep(.5)", answer="", cases=(0,))
    with BubblewrapSandbox(jobs=1) as sandbox:
        sandbox.run([double(1)])
        (box,) = sandbox._boxes
        running = sandbox.submit(slow)
        time.sleep(0.2)
        box._process.kill()
        # Lost once is tried once more.
        assert running.result().status is Status.FINISHED
        assert sandbox.run([double(4)])[0].outputs == (8,)


def test_box_that_cannot_start_is_lost_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with BubblewrapSandbox(jobs=1) as sandbox:
        (run,) = sandbox.run([double(1)])
    assert run.status is Status.LOST
    assert "not installed: bwrap" in run.detail


def test_box_whose_program_could_not_be_set_up_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with BubblewrapSandbox(jobs=1) as sandbox:
        monkeypatch.setattr(sandbox, "_resources", lambda timeout_s: {"RLIMIT_OF_NOTHING": 1})
        assert sandbox.run([double(1)])[0].status is Status.LOST
        assert not sandbox._boxes


def test_closing_ends_the_processes() -> None:
    with BubblewrapSandbox(jobs=2) as sandbox:
        sandbox.run([double(n) for n in range(4)])
        boxes = list(sandbox._boxes)
    assert boxes
    assert all(box._process.returncode is not None for box in boxes)


def test_open_sandbox_takes_the_box_where_it_works() -> None:
    with open_sandbox(jobs=1) as sandbox:
        assert sandbox.name == "BubblewrapSandbox"


def test_open_sandbox_falls_back_loudly_once(monkeypatch: pytest.MonkeyPatch, warned: None) -> None:
    monkeypatch.setattr(sandboxes, "box_command", lambda *_: ["false"])
    with pytest.warns(UnsafeSandboxWarning, match="can read this user's files"):
        first = open_sandbox(jobs=1)
    with first, warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_sandbox(jobs=1) as second:
            assert isinstance(second, UnsafeProcessSandbox)
            assert second.run([double(3)])[0].outputs == (6,)
    assert first.name == "UnsafeProcessSandbox"


def test_sandbox_that_does_not_hold_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes.seccomp, "program_filter", lambda machine: b"")
    with (
        BubblewrapSandbox(jobs=1) as sandbox,
        pytest.raises(UnavailableError, match="does not hold"),
    ):
        sandboxes.check_works(sandbox)


def test_machine_without_a_table_has_no_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes.platform, "machine", lambda: "vax")
    with BubblewrapSandbox(jobs=1) as sandbox:
        (run,) = sandbox.run([double(1)])
    assert "no seccomp table for 'vax'" in run.detail


@pytest.mark.parametrize("user", [0, 1000])
def test_command_drops_root_and_opens_nothing(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    command = box_command(this_runtime(), Limits(), {"A": "b"}, 9, ["inner"])
    words = " ".join(command)
    dropping = "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all"
    assert (dropping in words) is (user == 0)
    for needed in (
        "--unshare-all --unshare-user --disable-userns --cap-drop ALL",
        "--die-with-parent --new-session",
        "--clearenv",
        "--seccomp 9",
        "--remount-ro /",
    ):
        assert needed in words
    assert "--bind " not in words.replace("mount --bind", "")
    assert "--proc" not in command


def test_abstract_sandbox_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Sandbox()  # type: ignore[abstract]
