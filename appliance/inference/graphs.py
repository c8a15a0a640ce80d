"""Decoding steps recorded as CUDA graphs: on a GPU a small model's step is mostly launches.

A step is recorded once for each size (rows, keys, adapters or none), with inputs at fixed places,
and then played. The capture itself needs a GPU; the rest is tested without one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from appliance.inference.attention import Decode
from appliance.inference.kv_pages import GatheredPages
from appliance.inference.lora import LoraSlots
from appliance.inference.model import Model
from appliance.inference.sequence import Rows

_FEWEST_ROWS, _FEWEST_KEYS = 8, 512

Size = tuple[int, int, int]
"""Rows, keys, and the rank of the adapters' slots: 0 where all rows are the base's."""


@dataclass(slots=True)
class _Inputs:
    """What a recorded step reads, written before it is played."""

    ids: Tensor
    positions: Tensor
    writes: Tensor
    strangers: Tensor


@dataclass(slots=True)
class _Step:
    play: Callable[[], None]
    inputs: _Inputs
    logits: Tensor


@dataclass(slots=True)
class Graphs:
    """The recorded steps."""

    model: Model
    pages: GatheredPages
    lora: LoraSlots
    _steps: dict[Size, _Step] = field(default_factory=dict)

    def logits(self, rows: Rows, slots: list[int], longest: int) -> Tensor:
        """As `Decoder.logits`."""
        count = len(slots)
        num_rows = min(_power_of_two(max(count, _FEWEST_ROWS)), len(rows.last_id))
        num_keys = min(_power_of_two(max(longest, _FEWEST_KEYS)), self.pages.longest)
        size = (num_rows, num_keys, self.lora.rank if max(slots) >= 0 else 0)
        new = None if size in self._steps else self._inputs(size)
        inputs = new or self._steps[size].inputs
        inputs.ids.copy_(torch.from_numpy(rows.last_id[:num_rows]))
        inputs.positions.copy_(torch.from_numpy(rows.position[:num_rows]))
        inputs.positions[count:] = 0
        # The rows after those that decode are being filled: nobody's tokens must not go there.
        inputs.writes[count:] = self.pages.nobody
        torch.arange(count, out=inputs.writes[:count])
        if size[2]:
            inputs.strangers.copy_(self.lora.strangers(slots + [-1] * (num_rows - count)))
        if new is not None:
            play, logits = capture(lambda: self._run(size, new))
            self._steps[size] = _Step(play, new, logits)
        self._steps[size].play()
        return self._steps[size].logits

    def _inputs(self, size: Size) -> _Inputs:
        device = self.model.device
        ids, positions, writes = (
            torch.zeros(size[0], dtype=torch.int64, device=device) for _ in range(3)
        )
        return _Inputs(ids, positions, writes, self.lora.strangers([-1] * size[0]))

    def _run(self, size: Size, inputs: _Inputs) -> Tensor:
        model, (num_rows, num_keys, rank) = self.model, size
        attend = Decode(
            model.shape,
            self.pages,
            inputs.positions,
            num_rows,
            num_keys,
            model.dtype,
            inputs.writes,
        )
        terms = self.lora.terms_of_all(inputs.strangers) if rank else None
        return model.logits(model.hidden(inputs.ids, inputs.positions, attend, terms))


def capture(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record a step; returns what plays it, and where its result then stands."""
    # Libraries set themselves up in a first run, which a recording must not hold.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's gap
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
