"""Where a killed run goes on: adapter, optimizer, cursor and generator, in one rename."""

from pathlib import Path

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from adapter_training.collapse import Point
from appliance.core.digests import Digest
from appliance.core.errors import ConflictError
from appliance.core.files import publish

_NAME = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far the run is."""

    run: Digest
    """Digest of everything that decides the result; a checkpoint of another run is not used."""
    curve: tuple[Point, ...]
    """One point per step done."""
    signs: dict[str, int]
    """Steps at which each sign of collapse was seen."""


class Checkpoint:
    """The checkpoint of one run in its work folder."""

    def __init__(self, folder: Path, run: Digest) -> None:
        self._path = folder / _NAME
        self._run = run

    def save(
        self,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        cursor: Cursor,
    ) -> None:
        """Replace the checkpoint in one step."""
        tensors: dict[str, Tensor] = {"generator": torch.get_rng_state()}
        for name, parameter in parameters.items():
            tensors[f"adapter.{name}"] = parameter.detach()
            state = optimizer.state[parameter]
            for moment in (*_MOMENTS, "step"):
                if moment in state:
                    tensors[f"{moment}.{name}"] = state[moment]
        metadata = {"cursor": msgspec.json.encode(cursor).decode()}
        publish(self._path, save(tensors, metadata=metadata))

    def restore(
        self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> Cursor | None:
        """Put the run back to where it was; None if it has no checkpoint yet.

        Raises:
            ConflictError: the folder belongs to a run with other inputs.
        """
        if not self._path.exists():
            return None
        with safe_open(self._path, framework="pt") as file:
            cursor = msgspec.json.decode(file.metadata()["cursor"], type=Cursor)
            if cursor.run != self._run:
                raise ConflictError(
                    f"{self._path} belongs to a run with another dataset, recipe, base or version",
                    next_step="give --work an empty folder",
                )
            names = set(file.keys())
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(file.get_tensor(f"adapter.{name}"))
                    if f"step.{name}" in names:
                        optimizer.state[parameter] = {
                            moment: file.get_tensor(f"{moment}.{name}")
                            for moment in ("step", *_MOMENTS)
                        }
            torch.set_rng_state(file.get_tensor("generator"))
        return cursor
