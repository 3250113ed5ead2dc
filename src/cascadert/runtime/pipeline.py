"""The serial pipeline: frame after frame, stage after stage, one slot of buffers.

It reads the manifest and knows nothing of any system: a stage runs on its inputs, a decision before it says on how many
blocks, and n = 0 means that it is skipped and its outputs are what the manifest says stands for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import FRAME, Bundle, BundleManifest, SelectEntry, StageEntry
from cascadert.deployment import Deployment
from cascadert.device import NUMPY_TYPES, Buffer, Device
from cascadert.errors import DeploymentError, ExecutionError, InvalidRequest
from cascadert.executable import Executable
from cascadert.graph import Graph
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.selection import Selector, make_selector
from cascadert.spec import SelectPolicy

Array = NDArray[Any]
Planes = Array | Mapping[str, Array]
Policies = Mapping[str, SelectPolicy]
NO_POLICIES: Policies = MappingProxyType({})


@dataclass(frozen=True)
class RuntimeOptions:
    """`threads`: threads of each stage on the CPU; 0 takes all physical cores."""

    threads: int = 0


@dataclass(frozen=True)
class StageRun:
    """What one stage did on one frame.

    `n`, `scores` float32 and `order` int32 `[N * G]` are the decision before the stage: it refined the blocks
    `order[:n]` (block i is block i % G of camera i // G). All three are absent for a stage without a decision.
    """

    stage: str
    milliseconds: float
    n: int | None = None
    scores: NDArray[np.float32] | None = None
    order: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Result:
    """Everything about one frame; the arrays belong to the caller.

    `labels` is uint8 `[N, H, W]`; `tensors` maps `stage.output` to the outputs of every stage that ran.
    """

    labels: NDArray[np.uint8]
    runs: tuple[StageRun, ...]
    tensors: Mapping[str, Array]
    latency_ms: float


class Pipeline:
    """A loaded cascade. A context manager; not thread-safe."""

    def __init__(self, manifest: BundleManifest, executables: Mapping[str, Executable], device: Device) -> None:
        self.manifest = manifest
        self._executables, self._device, self._stream = executables, device, device.create_stream()
        self._slot = _allocate_slot(manifest, device)
        self._policies: dict[str, SelectPolicy] = {
            stage.name: stage.select.policy for stage in manifest.stages if stage.select is not None
        }

    def set_policy(self, stage: str, policy: SelectPolicy) -> None:
        """Change the decision before `stage`, from the next frame on.

        Raises:
            InvalidRequest: `stage` makes no decision.
        """
        self._checked_policies({stage: policy})
        self._policies[stage] = policy

    def infer(self, frame: Planes, policies: Policies = NO_POLICIES) -> Result:
        """Run one frame through every stage.

        Args:
            frame: uint8 `[N, H, W, C]` (`[H, W, C]` for one camera) in the manifest's pixel format; for NV12 a mapping
                of the planes `frame.y` and `frame.uv`.
            policies: decisions for this frame alone, by stage.

        Raises:
            InvalidRequest: a frame of another size or type, or a policy for a stage that makes no decision.
            ExecutionError: a stage failed.
        """
        chosen = {**self._policies, **self._checked_policies(policies)}
        started = time.perf_counter()
        tensors: dict[str, Buffer | None] = {}
        for name, plane in self._planes(frame).items():
            tensors[name] = self._slot[name]
            self._device.upload(plane, self._slot[name], self._stream)
        runs = tuple(self._run_stage(stage, tensors, chosen) for stage in self.manifest.stages)
        kept = self._download_all(tensors, {run.stage for run in runs if run.n != 0})
        labels = self._labels(tensors, kept)
        self._stream.synchronize()
        return Result(labels, runs, MappingProxyType(kept), (time.perf_counter() - started) * 1e3)

    def stream(self, frames: Iterable[Planes], policies: Policies = NO_POLICIES) -> Iterator[Result]:
        """Run frames one after the other; see `infer`."""
        for frame in frames:
            yield self.infer(frame, policies)

    def _run_stage(self, stage: StageEntry, tensors: dict[str, Buffer | None], policies: Policies) -> StageRun:
        decision = None if stage.select is None else self._decide(stage.select, tensors, policies[stage.name])
        begin = self._stream.record()
        if decision is not None and decision[0] == 0:
            for output in stage.outputs:
                stand_in = output.when_skipped
                tensors[f"{stage.name}.{output.name}"] = None if stand_in is None else tensors[stand_in]
        else:
            self._enqueue(stage, tensors, decision[0] if decision else 0)
        end = self._stream.record()
        self._stream.synchronize()
        return StageRun(stage.name, end.milliseconds_since(begin), *(decision or ()))

    def _decide(
        self, select: SelectEntry, tensors: Mapping[str, Buffer | None], policy: SelectPolicy
    ) -> tuple[int, NDArray[np.float32], NDArray[np.int32]]:
        """Return n with the sorted scores and their order; n = 0 where their producer was skipped."""
        scores, order = (tensors[name] for name in (select.scores, select.order))
        if scores is None or order is None:
            return 0, np.empty(0, np.float32), np.empty(0, np.int32)
        arrays = self._download(scores), self._download(order)
        self._stream.synchronize()
        if np.isnan(arrays[0]).any():  # their order means nothing then
            raise ExecutionError(select.scores, "holds NaN", "check the weights, and the frame")
        selector: Selector = make_selector(policy)
        return selector(arrays[0]), *arrays

    def _enqueue(self, stage: StageEntry, tensors: dict[str, Buffer | None], n: int) -> None:
        bindings: dict[str, Buffer] = {}
        for entry in stage.inputs:
            source = tensors[entry.source]
            assert source is not None, f"{stage.name} reads {entry.source}, which nothing stands for"
            bindings[entry.name] = source.prefix(n) if entry.prefix else source
        for output in stage.outputs:
            name = f"{stage.name}.{output.name}"
            bindings[output.name] = tensors[name] = self._slot[name]
        self._executables[stage.name].enqueue(bindings, self._stream)

    def _download(self, buffer: Buffer) -> Array:
        array: Array = np.empty(buffer.shape, NUMPY_TYPES[buffer.dtype])
        self._device.download(buffer, array, self._stream)
        return array

    def _download_all(self, tensors: Mapping[str, Buffer | None], ran: set[str]) -> dict[str, Array]:
        return {
            name: self._download(buffer)
            for name, buffer in tensors.items()
            if buffer is not None and name.split(".", 1)[0] in ran
        }

    def _labels(self, tensors: Mapping[str, Buffer | None], kept: Mapping[str, Array]) -> NDArray[np.uint8]:
        """Return the labels of the last stage that has some; a skipped stage hands on those before it."""
        last = next(s.name for s in reversed(self.manifest.stages) if any(o.name == "labels" for o in s.outputs))
        if f"{last}.labels" in kept:
            return kept[f"{last}.labels"]
        labels = tensors[f"{last}.labels"]
        assert labels is not None, f"{last} was skipped, and nothing stands for its labels"
        return self._download(labels)

    def _planes(self, frame: Planes) -> dict[str, Array]:
        if not self._slot:
            raise InvalidRequest("pipeline", "is closed", "open it again")
        planes = dict(frame) if isinstance(frame, Mapping) else {"frame": frame}
        wanted = {i.source: i for i in self.manifest.stages[0].inputs if i.producer == FRAME}
        if set(planes) != set(wanted):
            raise InvalidRequest("frame", f"has the planes {sorted(planes)}", f"give {sorted(wanted)}")
        return {name: _checked_plane(name, array, wanted[name].spec().shape) for name, array in planes.items()}

    def _checked_policies(self, policies: Policies) -> Policies:
        unknown = sorted(set(policies) - set(self._policies))
        if unknown:
            known = ", ".join(self._policies) or "none"
            raise InvalidRequest(f"policy for stage '{unknown[0]}'", "makes no decision", f"stages that do: {known}")
        return policies

    def close(self) -> None:
        """Release every stage and the device."""
        for executable in self._executables.values():
            executable.close()
        self._slot = {}
        self._device.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _allocate_slot(manifest: BundleManifest, device: Device) -> dict[str, Buffer]:
    """Allocate every tensor of one frame: the frame itself and all outputs, none of which is dynamic."""
    entries = {i.source: i for stage in manifest.stages for i in stage.inputs if i.producer == FRAME}
    outputs = {f"{stage.name}.{output.name}": output for stage in manifest.stages for output in stage.outputs}
    return {
        name: device.allocate(tuple(int(size) for size in entry.shape), entry.dtype)
        for name, entry in {**entries, **outputs}.items()
    }


def _checked_plane(name: str, array: Array, shape: tuple[int | str, ...]) -> Array:
    """Return the plane as `[N, H, W, C]`, adding the camera axis where there is one camera."""
    if not isinstance(array, np.ndarray):
        raise InvalidRequest(name, f"is a {type(array).__name__}", f"give uint8 {list(shape)} as a numpy array")
    full = array[np.newaxis] if array.ndim == 3 and shape[0] == 1 else array
    if full.dtype != np.uint8 or full.shape != shape:
        found = f"is {array.dtype} {list(array.shape)}"
        raise InvalidRequest(
            name, found, f"give uint8 {list(shape)}, or have the source fitted (frame.fit in the spec)"
        )
    return full


def open_pipeline(artefact: Bundle | Deployment, options: RuntimeOptions = RuntimeOptions()) -> Pipeline:
    """Load a bundle, or a deployment built for the CPU, with ONNX Runtime.

    Raises:
        DeploymentError: a deployment for a GPU: this version does not execute TensorRT engines.
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses a graph.
    """
    manifest, graphs = _graphs(artefact)
    return Pipeline(manifest, load_executables(graphs, options), HostDevice())


def load_executables(
    graphs: Mapping[str, Graph],
    options: RuntimeOptions = RuntimeOptions(),
) -> dict[str, OnnxRuntimeExecutable]:
    """Load the graph of each stage, by name; all or none.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses a graph.
    """
    with ExitStack() as loaded:
        executables = {
            name: loaded.enter_context(OnnxRuntimeExecutable(name, graph, options.threads))
            for name, graph in graphs.items()
        }
        loaded.pop_all()
    return executables


def _graphs(artefact: Bundle | Deployment) -> tuple[BundleManifest, Mapping[str, Graph]]:
    if isinstance(artefact, Bundle):
        return artefact.manifest, artefact.graphs
    built_for, manifest = artefact.manifest.built_for, artefact.manifest.bundle
    if built_for.backend != "onnxruntime":
        raise DeploymentError(
            str(artefact.path),
            f"was built for {built_for.target} ({built_for.backend}), which this version builds but does not execute",
            "run the bundle, or a deployment for the target cpu",
        )
    graphs = {
        stage.name: Graph(
            artefact.engine(stage.name),
            tuple(entry.spec() for entry in stage.inputs),
            tuple(entry.spec() for entry in stage.outputs),
            "onnxruntime",
        )
        for stage in manifest.stages
    }
    return manifest, graphs
