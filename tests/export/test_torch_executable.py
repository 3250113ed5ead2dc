"""PyTorch as an executable: the module's own bits, in place; on CUDA where there is a GPU."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cascadert.bundle import Bundle
from cascadert.device import Buffer
from cascadert.errors import BundleError, ExecutionError, InvalidRequest
from cascadert.export.compile import rebuild_stages
from cascadert.export.cuda_graphs import CudaGraphs
from cascadert.export.examples import examples
from cascadert.export.stages import make_stages
from cascadert.export.torch_executable import TorchExecutable, load_torch_stages
from cascadert.graph import TensorSpec
from cascadert.runtime.devices.host import HostBuffer, HostDevice, WorkerStream
from cascadert.spec import parse_spec

SPECS = (TensorSpec("x", "float32", ("n", 2)),), (TensorSpec("y", "float32", ("n", 2)),)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")


@pytest.fixture
def stream() -> Iterator[WorkerStream]:
    with HostDevice() as device:
        stream = device.create_stream("torch")
        yield stream
        assert stream.close(10)


@pytest.fixture(scope="module")
def stages(toy_bundle: Bundle) -> dict[str, TorchExecutable]:
    return load_torch_stages(toy_bundle)


@pytest.fixture
def bindings(toy_frames: np.ndarray) -> dict[str, HostBuffer]:
    return {
        "frame": HostBuffer(toy_frames[:1], "uint8"),
        "indices": HostBuffer(np.array([2, 0, 5], np.int32), "int32"),
        "prior_labels": HostBuffer(np.full((1, 40, 56), 7, np.uint8), "uint8"),
        "labels": HostBuffer(np.full((1, 40, 56), 99, np.uint8), "uint8"),
    }


class Doubled(nn.Module):
    """Twice the input; fails on NaN."""

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a\nnumber")
        return x * 2


def pair(values: list[list[float]], rows: int | None = None) -> dict[str, HostBuffer]:
    x = np.array(values, np.float32)
    return {"x": HostBuffer(x, "float32"), "y": HostBuffer(np.full((rows or len(x), 2), -1, np.float32), "float32")}


def test_every_stage_writes_its_modules_own_bits_in_place(
    toy_bundle: Bundle, stages: dict[str, TorchExecutable], toy_frames: np.ndarray, stream: WorkerStream
) -> None:
    fast, accurate = rebuild_stages(toy_bundle)
    frame = toy_frames[:1].copy()
    frame.flags.writeable = False  # as frames of a caller may be
    with torch.inference_mode():
        labels, _, order = wanted = fast(torch.from_numpy(toy_frames[:1]))
    device = HostDevice()
    shapes = {spec.name: (tuple(map(int, spec.shape)), spec.dtype) for spec in stages["fast"].outputs}
    outputs = {name: device.allocate(*shape) for name, shape in shapes.items()}
    stages["fast"].enqueue({"frame": HostBuffer(frame, "uint8"), **outputs}, stream)
    assert stream.synchronize(60)
    for name, tensor in zip(("labels", "scores", "order"), wanted, strict=True):
        np.testing.assert_array_equal(outputs[name].array, tensor.numpy())
    for n in (1, 2, 5, len(order)):
        refined = device.allocate((1, 40, 56), "uint8")
        bound = {"frame": HostBuffer(frame, "uint8"), "indices": outputs["order"].prefix(n), "labels": refined}
        stages["accurate"].enqueue({**bound, "prior_labels": outputs["labels"]}, stream)
        assert stream.synchronize(60)
        with torch.inference_mode():
            (by_hand,) = accurate(torch.from_numpy(toy_frames[:1]), order[:n], labels)
        np.testing.assert_array_equal(refined.array, by_hand.numpy())
    np.testing.assert_array_equal(frame, toy_frames[:1])


def test_queueing_does_not_wait_for_the_work(stream: WorkerStream) -> None:
    from threading import Event

    gate, bound = Event(), pair([[1, 2]])
    stream.submit(lambda: gate.wait(60) and None)
    TorchExecutable("double", Doubled(), *SPECS).enqueue(bound, stream)
    assert (bound["y"].array == -1).all()
    gate.set()
    assert stream.synchronize(60)
    assert bound["y"].array.tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("frame", None, r"^stage 'accurate': frame uint8 \[1, 40, 56, 3\]: is not bound to a buffer; bind every input"),
        ("labels", np.zeros((1, 40, 56), np.int32), r"labels uint8 \[1, 40, 56\]: is bound to int32 \[1, 40, 56\]"),
        ("indices", np.zeros(3, np.int64), r"indices int32 \[n\]: is bound to int64 \[3\]; bind a buffer of this type"),
    ],
)
def test_wrong_bindings_are_refused(
    stages: dict[str, TorchExecutable],
    bindings: dict[str, HostBuffer],
    stream: WorkerStream,
    name: str,
    array: np.ndarray | None,
    message: str,
) -> None:
    del bindings[name]
    if array is not None:
        bindings[name] = HostBuffer(array, str(array.dtype))
    with pytest.raises(ExecutionError, match=message):
        stages["accurate"].enqueue(bindings, stream)


def test_a_failure_belongs_to_its_piece_of_work_alone(stream: WorkerStream) -> None:
    executable = TorchExecutable("double", Doubled(), *SPECS)
    marks, pairs = [], [pair([[1, 2]]), pair([[np.nan, 2]]), pair([[3, 4], [5, 6]])]
    for bound in pairs:
        stream.begin()
        executable.enqueue(bound, stream)
        marks.append(stream.record())
    assert stream.synchronize(60)
    assert [type(mark.error) for mark in marks] == [type(None), ExecutionError, type(None)]
    assert str(marks[1].error) == (
        "stage 'double': PyTorch failed: ValueError: not a number; check the frame and the network"
    )
    assert [bound["y"].array.tolist() for bound in pairs] == [[[2, 4]], [[-1, -1]], [[6, 8], [10, 12]]]


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda x: x[:1], r"the module returned torch\.float32 \[1, 2\] where \[2, 2\] is bound; mend the module"),
        (lambda x: x.double(), r"the module returned torch\.float64 \[2, 2\] where"),
        (lambda x: (x, x), r"the module returned 2 tensors where y float32 \[n, 2\] is wanted; mend the module"),
        (lambda x: 7, r"PyTorch failed: TypeError: "),
    ],
)
def test_what_would_be_repeated_or_converted_is_refused(stream: WorkerStream, output: Any, found: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output(x)

    bound = pair([[1, 2], [3, 4]])
    stream.begin()
    TorchExecutable("odd", Odd(), *SPECS).enqueue(bound, stream)
    end = stream.record()
    assert end.synchronize(60)
    with pytest.raises(ExecutionError, match=rf"^stage 'odd'.*: {found}"):
        raise end.error
    assert (bound["y"].array == -1).all()


def test_memory_that_the_host_cannot_touch_is_refused(stream: WorkerStream) -> None:
    @dataclasses.dataclass(frozen=True)
    class Remote(HostBuffer):
        host = None

    bound = pair([[1, 2]])
    stream.begin()
    TorchExecutable("double", Doubled(), *SPECS).enqueue({**bound, "x": Remote(bound["x"].array, "float32")}, stream)
    end = stream.record()
    assert end.synchronize(60)
    assert "the CPU cannot touch a Remote" in str(end.error)


@pytest.mark.parametrize(
    ("device", "cuda_graphs", "message"),
    [
        ("gpu", False, r"^PyTorch on 'gpu': is no device; choose cpu or cuda$"),
        ("meta", False, r"^PyTorch on 'meta': is not provided for; choose cpu or cuda$"),
        ("cpu", True, r"^CUDA graphs on the CPU: cannot be; choose cuda, or leave them out$"),
        ("cuda:99", False, r"^PyTorch on 'cuda:99': PyTorch \S+ sees \d+ CUDA device\(s\); choose cpu, or install"),
    ],
)
def test_devices_that_cannot_be_used_are_refused(
    toy_bundle: Bundle, device: str, cuda_graphs: bool, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        load_torch_stages(toy_bundle, device=device, cuda_graphs=cuda_graphs)


def test_a_module_on_the_cpu_needs_a_stream_that_runs_host_code() -> None:
    class Other:
        handle = 7

    with pytest.raises(TypeError, match="a module on cpu does not run on a Other"):
        TorchExecutable("double", Doubled(), *SPECS).enqueue(pair([[1, 2]]), Other())


def test_other_weights_than_those_exported_are_refused(toy_bundle: Bundle, toy_folder: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    spec = shutil.copytree(toy_folder, tmp_path / "moved", ignore=ignored) / "toy.toml"
    assert load_torch_stages(toy_bundle, spec).keys() == {"fast", "accurate"}
    path = spec.with_name("accurate.safetensors")
    state = safetensors.torch.load_file(path)
    state["3.bias"][0] += 1e-3
    safetensors.torch.save_file(state, path)
    with pytest.raises(BundleError, match=r"stage 'accurate': its weights in .*moved are not the ones that were"):
        load_torch_stages(toy_bundle, spec)


@pytest.mark.parametrize("pixel_format", ["rgb8", "nv12"])
@pytest.mark.parametrize("merge", ["owner", "average"])
def test_stages_make_every_tensor_on_the_device_of_their_inputs(
    toy_data: dict[str, Any], merge: str, pixel_format: str
) -> None:
    toy_data["frame"]["pixel_format"] = pixel_format
    toy_data["stages"][1]["merge"] = merge
    toy_data["stages"].append({**toy_data["stages"][1], "name": "last"})
    spec = parse_spec(toy_data, "test")
    stages = make_stages(spec, {stage.name: nn.Conv2d(3, 4, 3, padding=1) for stage in spec.stages})
    for stage, example in list(examples(stages, spec)):
        inputs = [tensor.to("meta") for tensor in example.values()]
        with torch.no_grad(), OnMetaAlone():
            stage.to("meta")(*inputs)


class OnMetaAlone(TorchDispatchMode):
    """Refuses every operator that makes a tensor elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {value.device.type for value in tree_leaves(result) if isinstance(value, Tensor)}
        assert devices <= {"meta"}, f"{func} makes a tensor on {devices}"
        return result


class CaptureDouble:
    """CUDA's graphs without CUDA: a capture ends before it is replayed, and none is nested."""

    log: list[str] = []  # noqa: RUF012  one device, one log

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert pool == "pool"
        assert self.log.count("begin") == self.log.count("end")
        self.log.append("begin")

    def capture_end(self) -> None:
        assert self.log.count("begin") == self.log.count("end") + 1
        self.log.append("end")
        if "fails" in self.log:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        assert self.log.count("begin") == self.log.count("end")
        self.log.append("replay")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("torch.cuda.CUDAGraph", CaptureDouble)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(CaptureDouble, "log", [])
    return CaptureDouble.log


def test_a_run_warms_up_then_is_captured_then_replayed(log: list[str]) -> None:
    graphs = CudaGraphs("fast")
    for key in ("a", "a", "b", "a", "b"):
        graphs.run(key, lambda key=key: log.append(key))
    captured = ["begin", "a", "end", "replay"]
    assert log == ["a", *captured, "b", "replay", "begin", "b", "end", "replay"]
    graphs.clear()
    graphs.run("a", lambda: log.append("again"))
    assert log[-1] == "again"


def test_what_cannot_be_captured_is_refused_and_the_stream_given_back(log: list[str]) -> None:
    def work() -> None:
        if "begin" in log:
            log.append("fails")
            raise RuntimeError("operation not permitted when stream is capturing\nDevice-side assertions")

    graphs = CudaGraphs("fast")
    graphs.run("a", work)
    message = (
        r"^stage 'fast': CUDA cannot capture it in a graph: RuntimeError: operation not permitted when stream "
        r"is capturing; run it without CUDA graphs$"
    )
    with pytest.raises(ExecutionError, match=message):
        graphs.run("a", work)
    assert log == ["begin", "fails", "end"]


@dataclasses.dataclass(frozen=True)
class CudaBuffer:
    """A tensor on the GPU as a buffer."""

    tensor: Tensor
    dtype: str
    host = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def address(self) -> int:
        return self.tensor.data_ptr()

    def prefix(self, count: int) -> Buffer:
        return CudaBuffer(self.tensor[:count], self.dtype)


class CudaStream:
    """A CUDA stream that is not a default one."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.handle = self.stream.cuda_stream


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_on_cuda_runs_read_what_is_bound_at_the_time(
    toy_bundle: Bundle, toy_frames: np.ndarray, cuda_graphs: bool
) -> None:
    stream = CudaStream()
    fast, accurate = rebuild_stages(toy_bundle)
    stages = load_torch_stages(toy_bundle, device="cuda", cuda_graphs=cuda_graphs)
    frame, labels, refined = (torch.zeros(size, dtype=torch.uint8, device="cuda") for size in SIZES)
    scores = torch.zeros(toy_bundle.spec.make_grid().size, device="cuda")
    order = torch.zeros(len(scores), dtype=torch.int32, device="cuda")
    bound = {"frame": CudaBuffer(frame, "uint8"), "labels": CudaBuffer(labels, "uint8")}
    first = {**bound, "scores": CudaBuffer(scores, "float32"), "order": CudaBuffer(order, "int32")}
    second = {**bound, "prior_labels": bound["labels"], "labels": CudaBuffer(refined, "uint8")}
    for repeat in range(3):
        for picture in map(torch.from_numpy, toy_frames[:3, None]):
            with torch.cuda.stream(stream.stream):
                frame.copy_(picture)
            stages["fast"].enqueue(first, stream)
            n = 1 + repeat % 2 * 4
            stages["accurate"].enqueue({**second, "indices": CudaBuffer(order, "int32").prefix(n)}, stream)
            stream.stream.synchronize()
            with torch.inference_mode():
                wanted, wanted_scores, _ = fast(picture)
                wanted_refined = accurate(picture, order[:n].cpu(), labels.cpu())[0]
            torch.testing.assert_close(scores.cpu(), wanted_scores, atol=1e-4, rtol=0)
            assert (labels.cpu() == wanted).float().mean() > 0.999
            assert (refined.cpu() == wanted_refined).float().mean() > 0.999


SIZES = ((1, 40, 56, 3), (1, 40, 56), (1, 40, 56))


@pytest.mark.gpu
@needs_gpu
def test_on_cuda_what_waits_for_the_device_cannot_be_captured() -> None:
    executable = TorchExecutable("double", Doubled(), *SPECS, device="cuda", cuda_graphs=True)
    x, y = torch.ones(1, 2, device="cuda"), torch.zeros(1, 2, device="cuda")
    bound, stream = {"x": CudaBuffer(x, "float32"), "y": CudaBuffer(y, "float32")}, CudaStream()
    torch.cuda.synchronize()
    executable.enqueue(bound, stream)
    with pytest.raises(ExecutionError, match=r"^stage 'double': CUDA cannot capture it in a graph: "):
        executable.enqueue(bound, stream)
    stream.stream.synchronize()
    assert y.tolist() == [[2, 2]]


@pytest.mark.gpu
@needs_gpu
def test_on_cuda_a_host_stream_and_host_memory_are_refused(stream: WorkerStream) -> None:
    executable = TorchExecutable("double", Doubled(), *SPECS, device="cuda")
    with pytest.raises(TypeError, match=r"a module on cuda does not run on a WorkerStream"):
        executable.enqueue(pair([[1, 2]]), stream)
    with pytest.raises(ExecutionError, match=r"^stage 'double': PyTorch failed: "):
        executable.enqueue(pair([[1, 2]]), CudaStream())
