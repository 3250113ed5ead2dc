"""Checkpoints of a run: safetensors, since torch.load would unpickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from files import write_whole
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is kept. ``run`` says which one it is: seed, schedule, settings."""

    path: Path
    run: str

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, losses: Sequence[float], minutes: float
    ) -> None:
        """Keep weights, the optimizer's state, the losses so far and the minutes that they took."""
        tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        metadata = {"run": self.run, "losses": json.dumps(list(losses)), "minutes": str(minutes)}
        write_whole(self.path, serialise({n: t.contiguous().cpu() for n, t in tensors.items()}, metadata))

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[float], float]:
        """Load what `save` kept, if anything; return the losses so far and the minutes that they took.

        Raises:
            SystemExit: it is of another run.
        """
        if not self.path.exists():
            return [], 0.0
        with safe_open(self.path, "pt") as opened:
            metadata = opened.metadata()
        if metadata["run"] != self.run:
            remedy = "remove the file to start anew"
            raise SystemExit(f"{self.path}: is of {metadata['run']}, and this run is {self.run}; {remedy}")
        tensors = load_file(self.path)
        module.load_state_dict({n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")})
        state = dict[int, dict[str, Tensor]]()
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        losses: list[float] = json.loads(metadata["losses"])
        return losses, float(metadata["minutes"])
