"""Build the network that a stage names, ours or the user's, and load weights into it. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from cascadert.errors import NetworkError, SpecError, WeightsError
from cascadert.export.models import NETWORKS
from cascadert.export.models.torchvision_weights import check_names, from_torchvision
from cascadert.export.random_weights import seeded
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import NetworkSpec, StageSpec

_WRAPPED = "module."


def load_networks(spec: CascadeSpec, folder: Path, random_weights: int | None = None) -> dict[str, nn.Module]:
    """Build the network of every stage, by its name; stages that share one get their parts of the same module.

    Args:
        spec: what to build.
        folder: where its relative paths count from.
        random_weights: the seed of networks without weights.

    Raises:
        SpecError: a network names no weights, and no seed was given.
        NetworkError: a network that does not work, or has no such part.
        WeightsError: weights that do not fit it.
    """
    shared = {network.name: _load("network", network, folder, random_weights) for network in spec.networks}
    found = {}
    for stage in spec.stages:
        if stage.network is not None:
            found[stage.name] = _part(stage, shared[stage.network])
        else:
            own = NetworkSpec(name=stage.name, model=str(stage.model), args=stage.args, weights=stage.weights)
            found[stage.name] = _load("stage", own, folder, random_weights)
    return found


def _load(kind: str, network: NetworkSpec, folder: Path, random_weights: int | None) -> nn.Module:
    subject = f"{kind} '{network.name}'"
    if network.weights is not None:
        module = build_network(subject, network, folder)
        load_weights(module, folder / network.weights)
        return module
    if random_weights is not None:
        return seeded(random_weights, lambda: build_network(subject, network, folder))
    module = build_network(subject, network, folder)
    if next(module.parameters(), None) is not None:
        raise SpecError(f"{subject}: weights", "are missing", "add them, or pass --random-weights SEED")
    return module


def _part(stage: StageSpec, network: nn.Module) -> nn.Module:
    if stage.part is None:
        return network
    try:
        return network.get_submodule(stage.part)
    except AttributeError as error:
        known = ", ".join(name for name, _ in network.named_children())
        subject = f"stage '{stage.name}': part = \"{stage.part}\""
        raise NetworkError(subject, f"is no part of '{stage.network}', which has {known}", "mend its name") from error


def build_network(subject: str, network: NetworkSpec, folder: Path) -> nn.Module:
    """Call a network's `model` with its `args`; files are relative to `folder`, and `subject` names it in errors.

    Raises:
        NetworkError: the callable cannot be found or called, or does not return a module.
    """
    subject = f'{subject}: model = "{network.model}"'
    builder = NETWORKS.get(network.model) or _user_builder(network.model, folder, subject)
    try:
        module = builder(**network.args)
    except Exception as error:  # user code: whatever it raises is the user's answer
        raise NetworkError(subject, f"raised {type(error).__name__}: {error}", "mend args or the model") from error
    if not isinstance(module, nn.Module):
        raise NetworkError(subject, f"returned {type(module).__name__}", "return a torch.nn.Module")
    return module.eval().requires_grad_(False)


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

    Names are the network's own, or those of torchvision where it has the same network.

    Raises:
        WeightsError: a file that is missing or unreadable, tensors that are missing, unexpected or of another shape,
            or values that are not finite.
    """
    own = network.state_dict()
    read = _read_state(path)
    if read and all(name.startswith(_WRAPPED) and name not in own for name in read):
        found = f"every name in it begins with '{_WRAPPED}', as torch.nn.DataParallel saves them"
        raise WeightsError(str(path), found, f"strip the prefix '{_WRAPPED}'")
    state = from_torchvision(network, read, path)
    check_names(path, own.keys(), state.keys())
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
        remedy = "give safetensors, or torch.save(model.state_dict(), path)"
        raise WeightsError(str(path), f"cannot be read: {_why(error)}", remedy) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        keys = sorted(map(str, state))[:4] if isinstance(state, dict) else type(state).__name__
        raise WeightsError(str(path), f"is not a state dict but holds {keys}", "save model.state_dict() alone")
    return state


def _why(error: Exception) -> str:
    """Return what a library says of a file in one line; PyTorch's advice to unpickle is none that we pass on."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds other objects than tensors, which are never unpickled"
    lines = str(error).splitlines()
    return lines[0] if lines and " " in lines[0] else "it is neither of safetensors nor of torch.save"


def state_sha256(network: nn.Module) -> str:
    """Digest of every parameter and buffer, by name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
