"""Stages in PyTorch: the very modules that were exported, on the CPU or on CUDA, in the pipeline's buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from cascadert.bundle import Bundle
from cascadert.device import NUMPY_TYPES, Buffer, Stream, runs_host_code
from cascadert.errors import CascadertError, ExecutionError, InvalidRequest
from cascadert.executable import check_bindings
from cascadert.export.compile import rebuild_stages
from cascadert.export.cuda_graphs import CudaGraphs
from cascadert.graph import TensorSpec


class TorchExecutable:
    """One torch module as an executable stage.

    On the CPU the module runs in the stream's worker thread, on as many threads as `torch.set_num_threads` says: a
    setting of the whole process, which is left as it is. On CUDA its kernels are launched by the caller's thread on the
    stream's own CUDA stream, of the primary context; convolutions do not use TF32.

    Args:
        name: the stage, for errors.
        module: maps the inputs, in order, to the outputs, in order: a tensor or several. It is put into evaluation mode
            and moved to `device`; it must not write into its inputs.
        inputs: names, types and shapes; a dynamic dimension takes any size.
        outputs: the same.
        device: "cpu" runs on host streams, "cuda" or "cuda:<index>" on CUDA streams.
        cuda_graphs: replay runs instead of launching them anew, as long as the same memory is bound, which must stay
            allocated. The second run of each binding captures, and holds the caller up for longer.

    Raises:
        InvalidRequest: a device that PyTorch cannot use, or CUDA graphs without CUDA.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        device: str = "cpu",
        cuda_graphs: bool = False,
    ) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs
        self._device = _usable(device, cuda_graphs)
        self._module: nn.Module | None = module.eval().to(self._device)
        self._graphs = CudaGraphs(name) if cuda_graphs else None

    def blocks(self, n: int) -> int:
        """Return n: any number will do."""
        return n

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        """Queue one run; see `Executable.enqueue`.

        Raises:
            ExecutionError: a binding that does not fit; on CUDA also what the module fails with while it is launched.
        """
        check_bindings(self.name, (*self.inputs, *self.outputs), bindings)
        if runs_host_code(stream) != (self._device.type == "cpu"):
            raise TypeError(f"a module on {self._device} does not run on a {type(stream).__name__}")
        buffers = [bindings[spec.name] for spec in (*self.inputs, *self.outputs)]
        if runs_host_code(stream):
            stream.submit(partial(self._run, buffers))
        else:
            self._launch(buffers, stream)

    def close(self) -> None:
        """Release the module and its graphs."""
        if self._graphs is not None:
            self._graphs.clear()
        self._module = None

    def __enter__(self) -> TorchExecutable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _launch(self, buffers: Sequence[Buffer], stream: Stream) -> None:
        external = torch.cuda.ExternalStream(stream.handle, device=self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(external), _without_tf32():
            if self._graphs is None:
                self._run(buffers)
            else:
                bound = tuple((buffer.address, buffer.shape) for buffer in buffers)
                self._graphs.run(bound, partial(self._compute, buffers))

    def _run(self, buffers: Sequence[Buffer]) -> None:
        try:
            self._compute(buffers)
        except CascadertError:
            raise
        except Exception as error:  # the network is the user's code
            found = f"PyTorch failed: {type(error).__name__}: {error}"
            raise ExecutionError(f"stage '{self.name}'", found, "check the frame and the network") from error

    @torch.inference_mode()
    def _compute(self, buffers: Sequence[Buffer]) -> None:
        assert self._module is not None, "closed"
        tensors = [_tensor(buffer, self._device) for buffer in buffers]
        inputs, targets = tensors[: len(self.inputs)], tensors[len(self.inputs) :]
        found = self._module(*inputs)
        results = [found] if isinstance(found, Tensor) else list(found)
        self._check(results, targets)
        for target, result in zip(targets, results, strict=True):
            target.copy_(result)

    def _check(self, results: list[Tensor], targets: list[Tensor]) -> None:
        """Refuse what `copy_` would convert or repeat."""
        subject, remedy = f"stage '{self.name}'", "mend the module or its specification"
        if len(results) != len(targets):
            wanted = ", ".join(map(str, self.outputs))
            raise ExecutionError(
                subject, f"the module returned {len(results)} tensors where {wanted} is wanted", remedy
            )
        for spec, target, result in zip(self.outputs, targets, results, strict=True):
            if (result.dtype, result.shape) != (target.dtype, target.shape):
                found = f"the module returned {result.dtype} {list(result.shape)} where {list(target.shape)} is bound"
                raise ExecutionError(f"{subject}: {spec}", found, remedy)


def load_torch_stages(
    bundle: Bundle, spec: Path | None = None, *, device: str = "cpu", cuda_graphs: bool = False
) -> dict[str, TorchExecutable]:
    """Build the modules that a bundle was exported from, as an executable for each stage.

    Args:
        bundle: what was exported.
        spec: the specification's present path, where it moved since.
        device: see `TorchExecutable`.
        cuda_graphs: see `TorchExecutable`.

    Raises:
        SpecError, NetworkError: the networks cannot be built again.
        BundleError: they are not the ones that were exported.
        InvalidRequest: a device that PyTorch cannot use.
    """
    _usable(device, cuda_graphs)
    executables = {}
    for module, stage in zip(rebuild_stages(bundle, spec), bundle.manifest.stages, strict=True):
        inputs, outputs = (tuple(entry.spec() for entry in entries) for entries in (stage.inputs, stage.outputs))
        executables[stage.name] = TorchExecutable(
            stage.name, module, inputs, outputs, device=device, cuda_graphs=cuda_graphs
        )
    return executables


def _usable(device: str, cuda_graphs: bool) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InvalidRequest(f"PyTorch on '{device}'", "is no device", "choose cpu or cuda") from error
    if found.type not in ("cpu", "cuda"):
        raise InvalidRequest(f"PyTorch on '{device}'", "is not provided for", "choose cpu or cuda")
    if found.type == "cpu" and cuda_graphs:
        raise InvalidRequest("CUDA graphs on the CPU", "cannot be", "choose cuda, or leave them out")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        known = f"PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA device(s)"
        raise InvalidRequest(f"PyTorch on '{device}'", known, "choose cpu, or install PyTorch for CUDA and its driver")
    return found


def _without_tf32() -> AbstractContextManager[None]:
    """Let convolutions compute in fp32 where fp32 is asked for; PyTorch's own default is TF32."""
    cudnn = torch.backends.cudnn
    kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    return cudnn.flags(**kept, allow_tf32=False)


def _tensor(buffer: Buffer, device: torch.device) -> Tensor:
    """Return the very memory of a buffer as a tensor, which keeps the buffer alive."""
    kind = np.dtype(NUMPY_TYPES[buffer.dtype]).str
    memory = {"data": (buffer.address, False), "shape": buffer.shape, "typestr": kind, "strides": None, "version": 3}
    if device.type == "cuda":
        tensor = torch.as_tensor(SimpleNamespace(__cuda_array_interface__=memory, owner=buffer), device=device)
        if tensor.data_ptr() != buffer.address:
            raise TypeError(f"a {type(buffer).__name__} is not memory of {device}")
        return tensor
    if buffer.host is None:
        raise TypeError(f"the CPU cannot touch a {type(buffer).__name__}")
    # Not buffer.host itself: torch warns of arrays that are read-only, which frames may be.
    return torch.from_numpy(np.asarray(SimpleNamespace(__array_interface__=memory, owner=buffer)))
