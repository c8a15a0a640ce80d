"""Which blocks of the cache are free, in use, or kept for prompts that begin alike. No tensors.

A block's key covers the adapter and every id up to the block's end, so a hit is the block itself:
nothing is copied. Adapters are immutable, so a block never goes stale. A prompt's last block,
partly filled, has a key too; whoever finds it copies it, because its owner goes on writing there.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from appliance.core.digests import Digest


def block_keys(adapter: Digest | None, ids: Sequence[int], size: int) -> list[bytes]:
    """One key per block of `size` ids, the last perhaps partly filled."""
    raw = np.asarray(ids, dtype=np.int32).tobytes()
    key = (adapter or "base").encode()
    keys = []
    for at in range(0, len(raw), 4 * size):
        key = blake2b(key + raw[at : at + 4 * size], digest_size=16).digest()
        keys.append(key)
    return keys


class Blocks:
    """One pool, counted by use. What nobody uses and has a key is kept until room is wanted."""

    def __init__(self, count: int) -> None:
        self._free: dict[int, None] = dict.fromkeys(range(count))
        self._uses = [0] * count
        self._block_of: dict[bytes, int] = {}
        self._keys_of: dict[int, list[bytes]] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # used by nobody; oldest first

    @property
    def available(self) -> int:
        """Blocks that `take` could give: free ones, and kept ones that it would forget."""
        return len(self._free) + len(self._kept)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the first keys, as far as they are here."""
        found = []
        for key in keys:
            if key not in self._block_of:
                break
            found.append(self._block_of[key])
        return found

    def num_kept(self, blocks: Sequence[int]) -> int:
        """How many of these are available, too: sharing them leaves so many fewer."""
        return sum(1 for block in blocks if block in self._kept)

    def take(self, count: int, after: int = -1) -> list[int]:
        """Blocks for one new user, next to `after` and to each other where they can be."""
        taken = []
        for _ in range(count):
            after += 1
            if after not in self._free:
                after = self._oldest()
            self._free.pop(after)
            self._uses[after] = 1
            taken.append(after)
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """One more user of each."""
        for block in blocks:
            self._uses[block] += 1
            self._kept.pop(block, None)

    def drop(self, blocks: Sequence[int]) -> None:
        """One user fewer of each. The last blocks of a text are forgotten first."""
        for block in reversed(blocks):
            self._uses[block] -= 1
            if self._uses[block]:
                continue
            if block in self._keys_of:
                self._kept[block] = None
            else:
                self._free[block] = None

    def keep(self, keys: Sequence[bytes], blocks: Sequence[int]) -> None:
        """Let blocks be found; a key that is known stays with the block that it has."""
        for key, block in zip(keys, blocks, strict=False):
            if self._block_of.setdefault(key, block) == block:
                known = self._keys_of.setdefault(block, [])
                if key not in known:
                    known.append(key)

    def forget_unused(self, blocks: Sequence[int]) -> list[int]:
        """Let those that nobody uses be found no more; returns them."""
        unused = [block for block in dict.fromkeys(blocks) if not self._uses[block]]
        for block in unused:
            self._forget(block)
        return unused

    def _forget(self, block: int) -> None:
        for key in self._keys_of.pop(block, []):
            del self._block_of[key]
        self._kept.pop(block, None)
        self._free[block] = None

    def _oldest(self) -> int:
        """A free block; where there is none, the one that was kept for longest."""
        if not self._free:
            self._forget(next(iter(self._kept)))
        return next(iter(self._free))
