"""Memory that is seen at several addresses: the processor's own page table joins its blocks.

Linux only: an anonymous file, parts of which are mapped to addresses that were set aside.
"""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

from appliance.core.errors import UnavailableError

_FIXED, _NORESERVE = 0x10, 0x4000
_FAILED = ctypes.c_void_p(-1).value
_LIMIT = Path("/proc/sys/vm/max_map_count")
_LEFT_TO_OTHERS = 8192
"""Mappings of the process that are not ours: libraries, threads, other memory."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class MappedMemory:
    """`size` bytes, and a window of `window` bytes that shows parts of them; zeros elsewhere."""

    def __init__(self, size: int, window: int) -> None:
        self._file = os.memfd_create("espalier-cache")
        os.ftruncate(self._file, size)
        self.whole = mmap.mmap(self._file, size)
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        self._window = _mapped(None, window, mmap.PROT_READ, private, -1, 0)
        self.window = (ctypes.c_char * window).from_address(self._window)
        weakref.finalize(self, _close, self._file, self._window, window)

    def show(self, at: int, start: int, size: int) -> None:
        """Show bytes from `start` on at offset `at` of the window. All are multiples of a page."""
        shared = mmap.MAP_SHARED | _FIXED
        wanted = mmap.PROT_READ | mmap.PROT_WRITE
        _mapped(self._window + at, size, wanted, shared, self._file, start)

    def hide(self, at: int, size: int) -> None:
        """Show zeros again."""
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE | _FIXED
        _mapped(self._window + at, size, mmap.PROT_READ, private, -1, 0)


def most_mappings() -> int:
    """How many parts may be shown at once; the kernel's limit is for the whole process."""
    limit = int(_LIMIT.read_text()) if _LIMIT.exists() else 65530
    return max(limit - _LEFT_TO_OTHERS, limit // 2)


def _mapped(at: int | None, size: int, wanted: int, how: int, file: int, start: int) -> int:
    address: int | None = _libc.mmap(at, size, wanted, how, file, start)
    if address is None or address == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise UnavailableError(
            f"cannot map {size} bytes of cache: {reason}",
            next_step="lower [engine] memory_mib, or raise the limit vm.max_map_count",
        )
    return address


def _close(file: int, window: int, size: int) -> None:
    _libc.munmap(window, size)
    os.close(file)
