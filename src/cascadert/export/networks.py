"""Build the network that a stage names, ours or the user's, and load weights into it. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from cascadert.errors import NetworkError, WeightsError
from cascadert.export.models import NETWORKS
from cascadert.spec import StageSpec


def build_network(stage: StageSpec, folder: Path) -> nn.Module:
    """Call the stage's `model` with its `args`; files are relative to `folder`.

    Raises:
        NetworkError: the callable cannot be found or called, or does not return a module.
    """
    subject = f"stage '{stage.name}': model = \"{stage.model}\""
    builder = NETWORKS.get(stage.model) or _user_builder(stage.model, folder, subject)
    try:
        network = builder(**stage.args)
    except Exception as error:  # user code: whatever it raises is the user's answer
        raise NetworkError(subject, f"raised {type(error).__name__}: {error}", "mend args or the model") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(subject, f"returned {type(network).__name__}", "return a torch.nn.Module")
    return network.eval().requires_grad_(False)


def _user_builder(model: str, folder: Path, subject: str) -> Callable[..., Any]:
    module_name, separator, attribute = model.rpartition(":")
    if not separator:
        known = ", ".join(sorted(NETWORKS))
        raise NetworkError(subject, "is not a known network", f'choose one of {known}, or "module:callable"')
    try:
        module = _import(module_name, folder)
    except Exception as error:  # importing runs user code
        raise NetworkError(subject, f"importing it raised {type(error).__name__}: {error}", "mend the path") from error
    builder = getattr(module, attribute, None)
    if not callable(builder):
        raise NetworkError(subject, f"'{module_name}' has no callable '{attribute}'", "mend the name")
    return builder  # type: ignore[no-any-return]


def _import(name: str, folder: Path) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = (folder / name).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    unique = f"cascadert_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and torch.export look classes up by their module
    sys.path.insert(0, str(path.parent))  # a network of several files imports its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors file, or a torch state dict (`weights_only=True`), into every parameter and buffer.

    Raises:
        WeightsError: a file that is missing or unreadable, tensors that are missing, unexpected or of another shape,
            or values that are not finite.
    """
    state = _read_state(path)
    own = network.state_dict()
    for problem, names in (("lacks", own.keys() - state.keys()), ("has the unexpected", state.keys() - own.keys())):
        if names:
            first = sorted(names)[0]
            found = f"{problem} '{first}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            raise WeightsError(str(path), found, "give weights of this very network (check model and args)")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            found = f"'{name}' is {list(tensor.shape)} where the network has {list(own[name].shape)}"
            raise WeightsError(str(path), found, "check args, for instance the number of classes")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(str(path), f"'{name}' holds NaN or infinity", "train it again or take an earlier file")
    network.load_state_dict(state)


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            str(path), "there is no such file", "mend weights in the spec, or pass --random-weights SEED"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # neither library says what it raises on arbitrary bytes
        found = f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise WeightsError(str(path), found, "give safetensors, or torch.save(model.state_dict(), path)") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        keys = sorted(map(str, state))[:4] if isinstance(state, dict) else type(state).__name__
        raise WeightsError(str(path), f"is not a state dict but holds {keys}", "save model.state_dict() alone")
    return state


def state_sha256(network: nn.Module) -> str:
    """Digest of every parameter and buffer, by name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
