"""The command line of one box.

As root, privileges are dropped before bubblewrap starts, so that the box's user is nobody in the
outer namespace too. Then nothing under a closed home folder can be bound: where the interpreter
lives in one, it is first mounted at a place that everybody can reach, in a mount namespace that
only this box has.
"""

import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.core.errors import UnavailableError
from appliance.sandbox.limits import Limits
from appliance.sandbox.runtime import Runtime

NOBODY = 65534
TMP = "/tmp"  # noqa: S108 - the box's own, a fresh tmpfs
_MEETING_POINT = Path("/mnt")
_SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
_MIB = 1 << 20


def box_command(
    runtime: Runtime,
    limits: Limits,
    environment: Mapping[str, str],
    seccomp_fd: int,
    inner: Sequence[str],
) -> list[str]:
    """The whole command, from dropping privileges to `inner`, which runs in the box.

    Raises:
        UnavailableError: a program that this needs is not installed, or not Linux.
    """
    root = os.geteuid() == 0
    tools = ("bwrap", "prlimit", *(("setpriv", "unshare") if root else ()))
    if sys.platform != "linux":
        raise UnavailableError(f"boxes need Linux, this is {platform.system()}")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        raise UnavailableError(
            f"not installed: {', '.join(missing)}",
            next_step="install the packages bubblewrap and util-linux",
        )
    lift = root and not runtime.reachable
    return [
        *(_lift(runtime) if lift else ()),
        *(_drop_privileges() if root else ()),
        *("prlimit", "--core=0", f"--nofile={limits.files}", f"--fsize={limits.tmp_mib * _MIB}"),
        *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", "--uid", str(NOBODY), "--gid", str(NOBODY)),
        *_file_system(runtime, limits, lifted=lift),
        "--clearenv",
        *(part for name, value in environment.items() for part in ("--setenv", name, value)),
        *("--chdir", TMP, "--seccomp", str(seccomp_fd), "--"),
        *inner,
    ]


def _lift(runtime: Runtime) -> list[str]:
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    unshare = ["unshare", "--mount", "--propagation", "private", "--"]
    return [*unshare, "sh", "-c", script, "sh", str(runtime.prefix), str(_MEETING_POINT)]


def _drop_privileges() -> list[str]:
    user = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return ["setpriv", *user, "--bounding-set=-all", "--no-new-privs", "--"]


def _file_system(runtime: Runtime, limits: Limits, *, lifted: bool) -> list[str]:
    """Everything read-only but one small temporary folder; no /proc, so nobody's memory."""
    mounts = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        folder = Path(name)
        if folder.is_symlink():
            mounts += ["--symlink", str(folder.readlink()), name]
        elif folder.is_dir():
            mounts += ["--ro-bind", name, name]
    mounts += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in runtime.paths:
        source = _MEETING_POINT / path.relative_to(runtime.prefix) if lifted else path
        mounts += ["--ro-bind", str(source), str(path)]
    if runtime.packages.is_dir():
        mounts += ["--tmpfs", str(runtime.packages), "--remount-ro", str(runtime.packages)]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        mounts += ["--dev-bind", device, device]
    size = str(limits.tmp_mib * _MIB)
    return [*mounts, "--size", size, "--tmpfs", TMP, "--remount-ro", "/"]
