"""System calls that a box, and then a program in it, may not make; their numbers per machine.

Numbers are those of Linux's own tables. The reasons stand beside the names; the filter that is
made of them is in seccomp.py.
"""

X86_64 = "x86_64"
AARCH64 = "aarch64"

AUDIT_ARCH = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}

FIRST_UNKNOWN = 463
"""Calls from this number on are newer than this table, on both machines."""

# (x86_64, aarch64). From 424 on they are the same.
NUMBERS: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fcntl": (72, 25),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "setsid": (112, 157),
    "shmget": (29, 194),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# Calls that only x86_64 has.
X86_64_ONLY: dict[str, int] = {
    "fork": 57,
    "ioperm": 173,
    "iopl": 172,
    "modify_ldt": 154,
    "vfork": 58,
}

DENIED_IN_BOX = (
    # Another view of the file system, or another namespace to be root in.
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "unshare", "setns"),
    # Somebody else's memory or descriptors.
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
    # Files by handle go round the mounts.
    *("open_by_handle_at", "name_to_handle_at", "fanotify_init"),
    # Wide parts of the kernel that no program here needs, and that escapes have come through.
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "personality", "move_pages", "migrate_pages", "modify_ldt"),
    # Keys are the user's, not the box's.
    *("keyctl", "add_key", "request_key"),
    # The machine itself.
    *("acct", "quotactl", "quotactl_fd", "reboot", "swapon", "swapoff", "syslog", "kexec_load"),
    *("kexec_file_load", "init_module", "finit_module", "delete_module", "iopl", "ioperm"),
)

DENIED_TO_PROGRAM = (
    # One program is one process: nothing outlives it, and a fork bomb is one refused call.
    *("fork", "vfork", "execve", "execveat"),
    # A process group is how a runner without a box is ended with all its own.
    *("setsid", "setpgid"),
    # Signals and scheduling reach the process that forked it.
    *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"),
    *("pidfd_open", "process_madvise", "process_mrelease", "setpriority", "ioprio_set"),
    *("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    # Memory that outlives the process, or that its memory limit does not count.
    *("shmget", "semget", "msgget", "mq_open", "memfd_create", "memfd_secret"),
    # A socketpair is enough for asyncio; a program has nobody to call.
    "socket",
)


def number(name: str, machine: str) -> int | None:
    """The call's number on this machine; None where it does not exist there."""
    if name in X86_64_ONLY:
        return X86_64_ONLY[name] if machine == X86_64 else None
    on_x86_64, on_aarch64 = NUMBERS[name]
    return on_x86_64 if machine == X86_64 else on_aarch64
