"""The memory of all processes of the demo, sampled; the peak is what counts."""

import contextlib
import threading

import psutil

_INTERVAL_S = 0.5


class MemoryMeter:
    """Resident memory of this process, everything under it, and the appliance's processes.

    A page that two processes share is counted twice: an upper bound.
    """

    def __init__(self) -> None:
        self.now_mib = 0.0
        self.peak_mib = 0.0
        self._supervisors: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def watch(self, pid: int) -> None:
        """Count this process and everything under it too (the supervisor left our tree)."""
        self._supervisors.append(pid)

    def __enter__(self) -> "MemoryMeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self.now_mib = self._sample() / 2**20
            self.peak_mib = max(self.peak_mib, self.now_mib)

    def _sample(self) -> int:
        seen: dict[int, int] = {}
        for root in (psutil.Process().pid, *self._supervisors):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(root)
                for member in (process, *process.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        seen[member.pid] = member.memory_info().rss
        return sum(seen.values())
