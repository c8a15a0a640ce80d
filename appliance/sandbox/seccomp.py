"""Seccomp filters, written by hand as classic BPF: a list of refusals, everything else allowed.

There are two. The box's filter comes with bubblewrap and holds for everything in the box. The
program's filter is put on top in the forked child, just before untrusted code runs: filters add
up, and neither can be taken off. Which calls, and why: syscalls.py.
"""

import errno
import struct

from appliance.core.errors import UnavailableError
from appliance.sandbox import syscalls

# Offsets into struct seccomp_data; the low half of argument n is at 16 + 8n (little-endian).
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL, _AT_LEAST, _HAS_BITS = 0x15, 0x35, 0x45  # BPF_JMP | BPF_J… | BPF_K
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_CLONE_THREAD = 0x00010000
# CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET.
_CLONE_NAMESPACES = 0x00020000 | 0x02000000 | 0x7C000000
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: each makes the kernel send a signal.
_FCNTL_SIGNALS = (8, 10, 15, 1024, 1026)
# FIOASYNC, FIOSETOWN, SIOCSPGRP: the same by ioctl. TIOCSTI types into a terminal.
_IOCTL_SIGNALS = (0x5452, 0x8901, 0x8902, 0x5412)


def box_filter(machine: str) -> bytes:
    """What nothing in a box may do: array of ``struct sock_filter``.

    Raises:
        UnavailableError: no table of system calls for this machine.
    """
    rules = [_refuse(name, machine) for name in syscalls.DENIED_IN_BOX]
    rules.append(_refuse_bits("clone", 0, _CLONE_NAMESPACES, machine))
    # ENOSYS makes the C library fall back to clone, whose flags a filter can see.
    rules.append(_refuse("clone3", machine, errno.ENOSYS))
    return _assemble(rules, machine)


def program_filter(machine: str) -> bytes:
    """What a program may not do on top of `box_filter`; holds also where there is no box.

    Raises:
        UnavailableError: no table of system calls for this machine.
    """
    rules = [
        _refuse(name, machine) for name in (*syscalls.DENIED_IN_BOX, *syscalls.DENIED_TO_PROGRAM)
    ]
    rules.append(_require_bits("clone", 0, _CLONE_THREAD, machine))
    rules.append(_refuse("clone3", machine, errno.ENOSYS))
    # Its own limits only: pid 0 is the caller.
    rules.append(_require_value("prlimit64", 0, 0, machine))
    rules.append(_refuse_values("fcntl", 1, _FCNTL_SIGNALS, machine))
    rules.append(_refuse_values("ioctl", 1, _IOCTL_SIGNALS, machine))
    return _assemble(rules, machine)


def _assemble(rules: list[bytes], machine: str) -> bytes:
    head = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, _arch(machine), 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER),
        # Also x32's numbers, which have bit 30 set.
        _op(_AT_LEAST, syscalls.FIRST_UNKNOWN, 0, 1),
        _op(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    return b"".join([*head, *rules, _op(_RETURN, _ALLOW)])


def _refuse(name: str, machine: str, code: int = errno.EPERM) -> bytes:
    return _when_called(name, machine, [_op(_RETURN, _ERRNO | code)])


def _refuse_bits(name: str, argument: int, bits: int, machine: str) -> bytes:
    test = [_load(argument), _op(_HAS_BITS, bits, 0, 1)]
    return _when_called(name, machine, [*test, _REFUSE, _op(_RETURN, _ALLOW)])


def _require_bits(name: str, argument: int, bits: int, machine: str) -> bytes:
    test = [_load(argument), _op(_HAS_BITS, bits, 1, 0)]
    return _when_called(name, machine, [*test, _REFUSE, _op(_RETURN, _ALLOW)])


def _require_value(name: str, argument: int, value: int, machine: str) -> bytes:
    test = [_load(argument), _op(_EQUAL, value, 1, 0)]
    return _when_called(name, machine, [*test, _REFUSE, _op(_RETURN, _ALLOW)])


def _refuse_values(name: str, argument: int, values: tuple[int, ...], machine: str) -> bytes:
    tests = [op for value in values for op in (_op(_EQUAL, value, 0, 1), _REFUSE)]
    return _when_called(name, machine, [_load(argument), *tests, _op(_RETURN, _ALLOW)])


def _when_called(name: str, machine: str, then: list[bytes]) -> bytes:
    _arch(machine)
    number = syscalls.number(name, machine)
    if number is None:
        return b""
    return b"".join([_op(_EQUAL, number, 0, len(then)), *then])


def _load(argument: int) -> bytes:
    return _op(_LOAD, _ARGUMENTS + 8 * argument)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _arch(machine: str) -> int:
    try:
        return syscalls.AUDIT_ARCH[machine]
    except KeyError as error:
        known = ", ".join(syscalls.AUDIT_ARCH)
        raise UnavailableError(f"no seccomp table for {machine!r}; known: {known}") from error


_REFUSE = _op(_RETURN, _ERRNO | errno.EPERM)
