"""Which adapters are resident, who wants them so, and when a slot may be used again. No tensors."""

from collections import Counter, defaultdict

from appliance.core.digests import Digest, short
from appliance.core.errors import ConflictError, NotFoundError
from appliance.engine.wire import Released


class Residents:
    """Slots by adapter. An adapter stays while somebody holds it or a request uses it."""

    def __init__(self, slots: int) -> None:
        self._slots: dict[Digest, int] = {}
        self._free = list(range(slots - 1, -1, -1))
        self._holders: defaultdict[Digest, set[str]] = defaultdict(set)
        self._uses: Counter[Digest] = Counter()

    @property
    def digests(self) -> list[Digest]:
        """The resident adapters, oldest first."""
        return list(self._slots)

    def __contains__(self, adapter: Digest) -> bool:
        return adapter in self._slots

    def hold(self, adapter: Digest, holder: str) -> int:
        """Give an adapter a slot, or find the one that it has, and keep it for `holder`.

        Raises:
            ConflictError: every slot is held by another adapter.
        """
        if adapter not in self._slots:
            if not self._free:
                resident = ", ".join(f"{short(a)} ({self._reasons(a)})" for a in self._slots)
                raise ConflictError(
                    f"all {len(self._slots)} adapter slots are taken: {resident}",
                    next_step="release one, or raise [engine] slots",
                )
            self._slots[adapter] = self._free.pop()
        self._holders[adapter].add(holder)
        return self._slots[adapter]

    def release(self, adapter: Digest | None, holder: str) -> Released:
        """Stop holding. What a request still uses is freed when the last such request ends."""
        wanted = [adapter] if adapter else [a for a in self._slots if holder in self._holders[a]]
        result = Released()
        for one in wanted:
            self._holders[one].discard(holder)
            if one in self._slots and not self._holders[one]:
                (result.deferred if self._uses[one] else result.freed).append(one)
                self._free_unused(one)
        return result

    def use(self, adapter: Digest | None) -> int:
        """The slot for a request that begins now; -1 is the base.

        Raises:
            NotFoundError: the adapter is not resident.
        """
        if adapter is None:
            return -1
        if adapter not in self._slots:
            raise NotFoundError(
                f"adapter {short(adapter)} is not resident", next_step="prepare it first"
            )
        self._uses[adapter] += 1
        return self._slots[adapter]

    def end(self, adapter: Digest | None) -> None:
        """A request that used it has ended."""
        if adapter is not None:
            self._uses[adapter] -= 1
            self._free_unused(adapter)

    def _free_unused(self, adapter: Digest) -> None:
        if adapter in self._slots and not self._holders[adapter] and not self._uses[adapter]:
            self._free.append(self._slots.pop(adapter))
            del self._holders[adapter]

    def _reasons(self, adapter: Digest) -> str:
        holders = [f"held by {name or 'nobody in particular'}" for name in self._holders[adapter]]
        return "; ".join([*sorted(holders), f"{self._uses[adapter]} requests"])
