"""Programs that attack: each is held, and the innocent one after it in the same box is unharmed."""

import os
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.sandbox import sandbox as sandboxes
from appliance.sandbox import seccomp, syscalls
from appliance.sandbox.limits import Limits
from appliance.sandbox.programs import Program, Run, Status
from appliance.sandbox.runtime import this_runtime
from appliance.sandbox.sandbox import BubblewrapSandbox, Sandbox, UnsafeProcessSandbox

CALL = (
    "def run(answer, case):\n    space = {}\n    exec(answer, space)\n    return space['f'](case)\n"
)
INNOCENT = "f = lambda case: [case, 'x' * 60000]"
SIBLING = Program(source=CALL, answer=INNOCENT, cases=(1,))


@pytest.fixture(scope="module")
def boxed(boxes: None) -> Iterator[Sandbox]:
    with BubblewrapSandbox(jobs=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def unboxed() -> Iterator[Sandbox]:
    sandboxes._warned.set()
    with UnsafeProcessSandbox(jobs=1) as sandbox:
        yield sandbox


@pytest.fixture(params=["boxed", "unboxed"])
def either(request: pytest.FixtureRequest) -> Sandbox:
    sandbox: Sandbox = request.getfixturevalue(request.param)
    return sandbox


def attack(sandbox: Sandbox, code: str, timeout_s: float = 5.0) -> Run:
    """The run of `f` in `code`, once its sibling has been seen to be unharmed."""
    attacker = Program(source=CALL, answer=code, cases=(0,), timeout_s=timeout_s)
    run, sibling = sandbox.run([attacker, SIBLING])
    assert sibling.status is Status.FINISHED, sibling
    assert sibling.outputs == ([1, "x" * 60000],)
    return run


def _alive(group: int) -> list[int]:
    """Processes of a process group that are not just waiting to be reaped."""
    stats = [
        path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")
    ]
    return [int(pgrp) for state, _, pgrp, *_ in stats if int(pgrp) == group and state != "Z"]


# name: (code, exception that must come out of it)
REFUSED = {
    "kill the runner": ("import os\nf = lambda c: os.kill(os.getppid(), 9)", "PermissionError"),
    "kill everybody": ("import os\nf = lambda c: os.kill(-1, 9)", "PermissionError"),
    "kill the group": ("import os\nf = lambda c: os.killpg(0, 9)", "PermissionError"),
    "open the runner": ("import os\nf = lambda c: os.pidfd_open(os.getppid())", "PermissionError"),
    "leave the group": ("import os\nf = lambda c: os.setpgid(0, 0)", "PermissionError"),
    "leave the session": ("import os\nf = lambda c: os.setsid()", "PermissionError"),
    "daemon": ("import os\nf = lambda c: os.fork()", "PermissionError"),
    "fork bomb": ("import os\ndef f(c):\n    while True: os.fork()", "PermissionError"),
    "shell": (
        "import subprocess\nf = lambda c: subprocess.run(['/bin/sh', '-c', 'sleep 60 &'])",
        "PermissionError",
    ),
    "become another program": (
        "import os\nf = lambda c: os.execv('/bin/sh', ['sh'])",
        "PermissionError",
    ),
    "limit the runner": (
        "import os, resource\n"
        "f = lambda c: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "PermissionError",
    ),
    "raise its own limit": (
        "import resource\nf = lambda c: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "ValueError",
    ),
    "signal by descriptor": (
        "import fcntl, os\nf = lambda c: fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
        "PermissionError",
    ),
    "slow the runner": (
        "import os\nf = lambda c: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "PermissionError",
    ),
    "call home": ("import socket\nf = lambda c: socket.socket()", "PermissionError"),
    "memory that outlives it": ("import os\nf = lambda c: os.memfd_create('x')", "PermissionError"),
    "memory hog": ("f = lambda c: len(bytearray(1 << 32))", "MemoryError"),
    "endless recursion": ("f = lambda c: f(c)", "RecursionError"),
    "exit": ("f = lambda c: exit(0)", "NameError"),
    "sys.exit": ("import sys\nf = lambda c: sys.exit(0)", "SystemExit"),
    "not JSON": ("f = lambda c: {1, 2}", "TypeError"),
    "not a number in JSON": ("f = lambda c: float('nan')", "ValueError"),
}

REFUSED_IN_BOX = {
    "read the runner's memory": (
        "import os\nf = lambda c: open(f'/proc/{os.getppid()}/mem', 'rb')",
        "FileNotFoundError",
    ),
    "read a secret": ("f = lambda c: open('/etc/passwd').read()", "FileNotFoundError"),
    "read our source": (f"f = lambda c: open({__file__!r}).read()", "FileNotFoundError"),
    "write beside the temporary folder": ("f = lambda c: open('/x', 'w')", "OSError"),
    "write to the system": ("f = lambda c: open('/usr/lib/x', 'w')", "OSError"),
    "write to devices": ("f = lambda c: open('/dev/x', 'w')", "OSError"),
    "fill the folder": (
        "def f(c):\n    for i in range(9):\n        open(f'{i}', 'wb').write(bytes(8 << 20))",
        "OSError",
    ),
    "import installed packages": ("def f(c):\n    import pip", "ModuleNotFoundError"),
    "leave a package": (
        f"f = lambda c: open({str(this_runtime().packages / 'x')!r}, 'w')",
        "OSError",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(either: Sandbox, name: str) -> None:
    code, error = REFUSED[name]
    run = attack(either, code)
    assert (run.status, run.error) == (Status.RAISED, error), run


@pytest.mark.parametrize("name", REFUSED_IN_BOX)
def test_is_refused_in_a_box(boxed: Sandbox, name: str) -> None:
    code, error = REFUSED_IN_BOX[name]
    run = attack(boxed, code)
    assert (run.status, run.error) == (Status.RAISED, error), run


@pytest.mark.parametrize("name", [*syscalls.DENIED_IN_BOX, *syscalls.DENIED_TO_PROGRAM])
def test_system_call_is_refused(either: Sandbox, name: str) -> None:
    number = syscalls.number(name, platform.machine())
    if number is None:
        pytest.skip("this machine has no such call")
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"f = lambda c: (libc.syscall({number}, -1, -1, -1, -1, -1), ctypes.get_errno())"
    )
    program = Program(source=CALL, answer=code, cases=(0,), timeout_s=5)
    assert either.run([program])[0].outputs == ([-1, 1],)  # EPERM


def test_denied_calls_are_those_of_the_recipe() -> None:
    # Named again here, so that a name that drops out of the table drops out of nothing unseen.
    box = "mount umount2 pivot_root move_mount ptrace process_vm_readv bpf keyctl io_uring_setup"
    assert {*box.split(), "userfaultfd", "perf_event_open", "unshare"} <= {*syscalls.DENIED_IN_BOX}
    program = "fork vfork execve execveat kill tkill tgkill pidfd_send_signal shmget socket"
    assert {*program.split(), "memfd_create", "setsid"} <= {*syscalls.DENIED_TO_PROGRAM}


def test_call_newer_than_the_table_does_not_exist(boxed: Sandbox) -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"f = lambda c: (libc.syscall({syscalls.FIRST_UNKNOWN}, 0, 0), ctypes.get_errno())"
    )
    assert attack(boxed, code).outputs == ([-1, 38],)  # ENOSYS


def test_box_filter_holds_without_the_programs_filter(
    boxes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "program_filter", lambda machine: b"")
    clone = syscalls.number("clone", platform.machine())
    mount = syscalls.number("mount", platform.machine())
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def f(c):\n"
        "    if os.fork() == 0: os._exit(0)\n"
        f"    new_user = libc.syscall({clone}, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno()\n"
        f"    return new_user, (libc.syscall({mount}, 0, 0, 0, 0, 0), ctypes.get_errno())"
    )
    with BubblewrapSandbox(jobs=1) as sandbox:
        (run,) = sandbox.run([Program(source=CALL, answer=code, cases=(0,))])
    assert run.outputs == ([[-1, 1], [-1, 1]],), run


@pytest.mark.parametrize(
    "code",
    [
        "def f(c):\n    while True: pass",
        "import time\nf = lambda c: time.sleep(600)",
        "import signal, time\nsignal.pthread_sigmask(0, range(1, 64))\n"
        "f = lambda c: time.sleep(600)",
    ],
)
def test_overrun_is_ended_and_its_process_with_it(either: Sandbox, code: str) -> None:
    started = time.monotonic()
    run = attack(either, code, timeout_s=0.3)
    assert run.status is Status.TIMED_OUT
    assert time.monotonic() - started < 5


def test_no_process_of_an_overrun_is_left(either: Sandbox) -> None:
    either.run([SIBLING])
    (box,) = either._boxes
    group = box._process.pid
    sleeper = Program(
        source=CALL, answer="import time\nf = lambda c: time.sleep(99)", cases=(0,), timeout_s=0.3
    )
    assert either.run([sleeper])[0].status is Status.TIMED_OUT
    deadline = time.monotonic() + 5  # the killed ones may take a moment to be gone
    while left := _alive(group):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def test_endless_output_is_ended(either: Sandbox) -> None:
    run = attack(either, "def f(c):\n    while True: print('x' * 999)")
    assert run.status is Status.FLOODED
    assert len(run.printed) <= 4096


def test_output_beyond_the_limit_is_ended(either: Sandbox) -> None:
    assert attack(either, "f = lambda c: 'x' * 200_000").status is Status.FLOODED


def test_leaving_without_a_result_is_no_result(either: Sandbox) -> None:
    run = attack(either, "import os\nf = lambda c: os._exit(0)")
    assert (run.status, run.outputs) == (Status.ENDED_EARLY, ())


def test_crash_is_no_result(either: Sandbox) -> None:
    run = attack(either, "import ctypes\nf = lambda c: ctypes.string_at(1)")
    assert (run.status, run.error) == (Status.ENDED_EARLY, signal.SIGSEGV.name)


def test_next_program_finds_the_folder_empty(either: Sandbox) -> None:
    write = "import os\ndef f(c):\n    open('left', 'w').write('x')\n    return os.listdir('.')"
    look = Program(source=CALL, answer="import os\nf = lambda c: os.listdir('.')", cases=(0,))
    assert attack(either, write).outputs == (["left"],)
    assert either.run([look])[0].outputs == ([],)


def test_spoilt_results_pipe_does_not_reach_the_next(either: Sandbox) -> None:
    # The next one writes 60 kB, which a small pipe that does not block would refuse.
    code = (
        "import fcntl, os\n"
        "def f(c):\n"
        "    for fd in range(1, 1024):\n"
        "        try:\n"
        "            fcntl.fcntl(fd, 1031, 4096)\n"
        "            os.set_blocking(fd, False)\n"
        "        except OSError: pass\n"
    )
    assert attack(either, code).outputs == (None,)


def test_changed_modules_do_not_reach_the_next(either: Sandbox) -> None:
    code = (
        "import builtins, json, os, sys\n"
        "def f(c):\n"
        "    sys.modules['json'] = sys.modules['os'] = None\n"
        "    builtins.compile = builtins.exec = None\n"
        "    sys.modules['__main__'].run_program = None\n"
        "    return 7"
    )
    assert attack(either, code).outputs == (7,)


def test_forged_lines_are_only_outputs(either: Sandbox) -> None:
    # It finds the results pipe and speaks for itself, and for the one after it.
    code = (
        "import os\n"
        "def f(c):\n"
        "    for fd in range(3, 1024):\n"
        "        try: os.write(fd, b'{\"output\": 1}\\n' * 2)\n"
        "        except OSError: pass\n"
        "    os._exit(0)\n"
    )
    run = attack(either, code)
    assert (run.status, run.error) == (Status.RAISED, "Unreadable")


def test_program_holds_its_own_descriptors_only(either: Sandbox) -> None:
    code = (
        "import os\n"
        "def f(c):\n"
        "    found = []\n"
        "    for fd in range(1024):\n"
        "        try: os.fstat(fd); found.append(fd)\n"
        "        except OSError: pass\n"
        "    return len(found), os.read(0, 1).decode()\n"
    )
    assert attack(either, code).outputs == ([4, ""],)


@pytest.mark.parametrize("kind", [BubblewrapSandbox, UnsafeProcessSandbox])
def test_a_large_process_hands_over_no_more(kind: type[Sandbox], boxes: None) -> None:
    """Above the box's own limit on files, a descriptor is still there, and must be closed."""
    fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    code = (
        "import os\n"
        "def f(case):\n"
        "    written = []\n"
        "    for fd in range(3, 2048):\n"
        "        try: os.write(fd, b'0 1\\n'); written.append(fd)\n"
        "        except OSError: pass\n"
        "    return len(written)\n"
    )
    sandboxes._warned.set()
    try:
        with kind(jobs=1) as sandbox:
            run = attack(sandbox, code)
    finally:
        for filler in fillers:
            os.close(filler)
    # It reached its own results, which are not JSON now, and nothing else.
    assert (run.status, run.error) == (Status.RAISED, "Unreadable"), run


def test_unreadable_outputs_are_refused_outside(either: Sandbox) -> None:
    for line in ("not json", "[" * 50_000, '{"output": NaN}', '{"verdict": "ok"}', "\\xff"):
        code = (
            "import os\n"
            "def f(c):\n"
            "    for fd in range(3, 1024):\n"
            f"        try: os.write(fd, b'{line}\\n')\n"
            "        except OSError: pass\n"
            "    os._exit(0)\n"
        )
        run = attack(either, code)
        assert run.status is not Status.FINISHED, line


def test_box_is_nobodys_and_bare(boxed: Sandbox) -> None:
    code = (
        "import os\n"
        "f = lambda c: [os.getuid(), os.getgid(), os.getcwd(), sorted(os.environ),"
        " os.listdir('/tmp'), sorted(os.listdir('/dev')), os.path.exists('/proc'),"
        f" os.listdir({str(this_runtime().packages)!r})]"
    )
    uid, gid, folder, environment, files, devices, proc, packages = attack(boxed, code).outputs[0]
    assert packages == []
    assert (uid, gid, folder) == (65534, 65534, "/tmp")
    assert set(environment) <= {"PATH", "LANG", "PYTHONHASHSEED", "PWD", "LC_CTYPE"}
    assert (files, devices, proc) == ([], ["null", "urandom", "zero"], False)


def test_threads_are_allowed_up_to_the_limit(boxes: None) -> None:
    code = (
        "import threading\n"
        "def f(n):\n"
        "    stop = threading.Event()\n"
        "    threading.stack_size(1 << 16)\n"
        "    threads = [threading.Thread(target=stop.wait) for _ in range(n)]\n"
        "    try:\n"
        "        for t in threads: t.start()\n"
        "    except RuntimeError: return 'refused'\n"
        "    finally: stop.set()\n"
        "    return 'started'\n"
    )
    with BubblewrapSandbox(Limits(threads=32), jobs=1) as sandbox:
        few, many = sandbox.run(
            [Program(source=CALL, answer=code, cases=(n,), timeout_s=10) for n in (8, 64)]
        )
    assert (few.outputs, many.outputs) == (("started",), ("refused",))
