"""Weights, logs and results: each is written at once or not at all, and nothing is pickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import nn


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write safetensors: kernels as float16 to halve the file, vectors and statistics as they are.

    Batch-norm variances can lie below what float16 holds, so only tensors of two axes and more are rounded.
    """
    state = module.state_dict().items()
    tensors = {name: (tensor.half() if tensor.ndim > 1 else tensor).contiguous().cpu() for name, tensor in state}
    write_whole(path, serialise(tensors))


def load_weights(module: nn.Module, path: Path) -> None:
    """Load safetensors, strictly.

    Raises:
        SystemExit: no such file, or weights of another network.
    """
    try:
        module.load_state_dict(load_file(path))
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"{path}: {' '.join(str(error).split())}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a log or a result."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
