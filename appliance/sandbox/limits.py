"""How much one program may take."""

import math
from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
_MIB = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits per program. Its wall time comes with the program.

    There is no limit on processes: a program is one process and may not start another
    (seccomp.py). So its memory limit holds for all that it does, and needs no cgroup.
    """

    memory_mib: Count = 512
    """Address space, the interpreter's own included."""
    output_bytes: Count = 1 << 16
    """Its outputs as JSON, and again what it prints."""
    tmp_mib: Count = 16
    """Its temporary folder, and any file in it."""
    files: Count = 64
    """Open descriptors."""
    threads: Count = 64
    """Tasks of the box's user; counted only where the box has a user of its own."""

    def resources(self, timeout_s: float) -> dict[str, int]:
        """The resource limits that a child puts on itself, by their names in `resource`."""
        return {
            "RLIMIT_AS": self.memory_mib * _MIB,
            "RLIMIT_CORE": 0,
            # Processor time only ends what the wall clock has already called overdue.
            "RLIMIT_CPU": math.ceil(timeout_s) + 1,
            "RLIMIT_FSIZE": self.tmp_mib * _MIB,
            "RLIMIT_NOFILE": self.files,
        }
