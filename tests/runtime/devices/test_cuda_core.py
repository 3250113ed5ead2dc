"""cuda-core under the contract of all devices: on a simulated GPU, and on a real one where there is a driver."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cuda_core_double as double
import pytest
from cuda_kits import HOLD, fail, foreign_to, needs_gpu, simulated_kit
from device_contract import DeviceContract, Kit
from gpu_simulation import MEMORY_BYTES, MULTIPROCESSORS, PRIORITIES, SimulatedGpu

from cascadert.device import Buffer
from cascadert.errors import InvalidRequest, MissingExtra
from cascadert.runtime.devices.cuda_core import CudaCoreDevice
from cascadert.runtime.devices.cuda_stream import CudaStream


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    gpu = SimulatedGpu()
    double.install(monkeypatch, gpu, integrated=False)
    yield gpu
    gpu.end()


class TestSimulated(DeviceContract):
    @pytest.fixture
    def kit(self, gpu: SimulatedGpu) -> Iterator[Kit]:
        yield from simulated_kit(gpu, CudaCoreDevice())


@pytest.mark.gpu
@needs_gpu
class TestReal(DeviceContract):
    @pytest.fixture
    def kit(self) -> Kit:
        core = pytest.importorskip("cuda.core", reason="cuda-core is not installed (extra cuda)")
        device = CudaCoreDevice()
        kernel = core.ObjectCode.from_ptx(HOLD).get_kernel("hold")

        def hold(stream: CudaStream, flag: Buffer) -> None:
            one = core.LaunchConfig(grid=1, block=1)
            core.launch(core.Stream.from_handle(stream.handle), one, kernel, flag.address)

        return Kit(device, hold, fail, lambda buffer: buffer, foreign_to(device))


def test_higher_is_more_urgent_up_to_the_highest_there_is(gpu: SimulatedGpu) -> None:
    device = CudaCoreDevice()
    for priority in (0, 1, 3, 99):
        assert device.create_stream("s", priority).close()
    least, most = PRIORITIES
    assert gpu.priorities == [least, -1, most, most]
    with pytest.raises(InvalidRequest, match="priority -1 for stream 's': is below 0"):
        device.create_stream("s", -1)


@pytest.mark.parametrize("integrated", [True, False])
def test_an_integrated_gpu_is_unified(monkeypatch: pytest.MonkeyPatch, integrated: bool) -> None:
    double.install(monkeypatch, gpu := SimulatedGpu(), integrated)
    device = CudaCoreDevice(1)
    assert (device.unified, device.ordinal, device.name) == (integrated, 1, "Simulated GPU")
    assert (device.multiprocessors, device.memory_bytes) == (MULTIPROCESSORS, MEMORY_BYTES)
    pinned = device.allocate_pinned((4,), "uint8")
    assert pinned.address == pinned.host.ctypes.data
    gpu.end()


def test_buffers_export_dlpack_with_shape_and_type(gpu: SimulatedGpu) -> None:
    device = CudaCoreDevice()
    buffer = device.allocate((3, 2), "float16").prefix(2)
    capsule = buffer.__dlpack__(stream=5)
    assert (capsule["address"], capsule["shape"], capsule["dtype"]) == (buffer.address, (2, 2), "float16")
    assert buffer.__dlpack_device__() == (2, 0)
    assert device.allocate_pinned((1,), "bool").__dlpack_device__() == (3, 0)


def test_without_cuda_core_the_extra_is_named(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingExtra, match=r"cascadert\[cuda\]"):
        CudaCoreDevice()


DUNDERS = {"__sub__", "__dlpack__", "__dlpack_device__"}


def members(kind: type) -> dict[str, Any]:
    """What a class of the double offers."""
    return {name: item for name, item in vars(kind).items() if not name.startswith("_") or name in DUNDERS}


@pytest.mark.parametrize("kind", [*double.CORE, double.StridedMemoryView], ids=lambda kind: kind.__name__)
def test_the_double_has_only_what_cuda_core_has(kind: type) -> None:
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed (extra cuda)")
    real = getattr(core, kind.__name__, None) or getattr(core.utils, kind.__name__)
    for name, item in members(kind).items():
        found = getattr(real, name)
        if name == "__sub__":
            assert callable(found)
        elif inspect.isroutine(item) or isinstance(item, staticmethod | classmethod):
            ours, theirs = (inspect.signature(getattr(k, name)).parameters for k in (kind, real))
            assert {n: p.kind for n, p in ours.items()}.items() <= {n: p.kind for n, p in theirs.items()}.items(), name
        elif isinstance(item, property):
            assert not callable(found), name


def test_what_else_the_device_uses_is_in_cuda_core() -> None:
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed (extra cuda)")
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed (extra cuda)")
    assert callable(driver.cuCtxGetStreamPriorityRange) and callable(driver.cuDeviceTotalMem)
    assert {"ptr", "shape", "strides", "dtype"} <= set(dir(core.utils.StridedMemoryView))
    assert core.StreamOptions(nonblocking=True, priority=-1).priority == -1
    assert core.EventOptions(timing_enabled=True, blocking_sync=True).blocking_sync
    assert {"integrated", "multiprocessor_count"} <= set(dir(core._device.DeviceProperties))
    assert all(hasattr(core, name) for name in ("ObjectCode", "LaunchConfig", "launch"))
    assert callable(core.ObjectCode.from_ptx) and callable(core.ObjectCode.get_kernel) and core.Stream.from_handle


LOSE_THE_CONTEXT = """
from cuda import core
from cascadert.runtime.devices.cuda_core import CudaCoreDevice

ptx = b".version 6.0\\n.target sm_50\\n.address_size 64\\n.visible .entry broken() { trap; }\\n"
device, heard = CudaCoreDevice(), []
kernel = core.ObjectCode.from_ptx(ptx).get_kernel("broken")
stream = device.create_stream("lost")
stream.begin()
core.launch(core.Stream.from_handle(stream.handle), core.LaunchConfig(grid=1, block=1), kernel)
broken = stream.record()
stream.notify(heard.append)
assert broken.synchronize(30)
later = stream.begin()
assert stream.close(30)
print(*(type(error).__name__ for error in (broken.error, later.error, *heard)))
assert all("CUDA_ERROR_" in str(error) for error in (broken.error, later.error, *heard)), broken.error
"""


@pytest.mark.gpu
@needs_gpu
def test_a_real_context_is_lost_as_the_simulated_one_is() -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed (extra cuda)")
    command = [sys.executable, "-c", LOSE_THE_CONTEXT]  # a process of its own, for no other test could use the GPU
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.split(), done.returncode) == (["ExecutionError"] * 3, 0), done.stderr
