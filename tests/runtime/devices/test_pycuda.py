"""PyCUDA under the contract of all devices: on a simulated GPU, and on a real one where there is a driver."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pycuda_double as double
import pytest
from cuda_kits import HOLD, Array, fail, foreign_to, needs_gpu, simulated_kit
from device_contract import DeviceContract, Kit
from gpu_simulation import MEMORY_BYTES, MULTIPROCESSORS, SimulatedGpu

from cascadert.device import Buffer
from cascadert.runtime.devices.cuda_stream import CudaStream
from cascadert.runtime.devices.pycuda import PyCudaDevice


class TestSimulated(DeviceContract):
    @pytest.fixture
    def kit(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
        double.install(monkeypatch, gpu := SimulatedGpu(), integrated=True)
        yield from simulated_kit(gpu, PyCudaDevice())
        assert not any(gpu.depths.values())  # PyCUDA aborts the process when a thread ends with a context pushed


class OrderedArray(Array):
    """An array whose DLPack side is used for its order alone."""

    def __dlpack__(self, *, stream: int, max_version: Any = None) -> dict[str, Any]:
        return {}


@pytest.mark.gpu
@needs_gpu
class TestReal(DeviceContract):
    @pytest.fixture
    def kit(self) -> Kit:
        cuda = pytest.importorskip("pycuda.driver", reason="PyCUDA is not installed (extra pycuda)")
        device = PyCudaDevice()
        with device._driver.current():
            kernel = cuda.module_from_buffer(HOLD).get_function("hold")

        def hold(stream: CudaStream, flag: Buffer) -> None:
            with device._driver.current():
                kernel(np.uint64(flag.address), block=(1, 1, 1), grid=(1, 1), stream=stream._native.native)

        return Kit(device, hold, fail, OrderedArray, foreign_to(device))


def test_an_integrated_gpu_is_unified(monkeypatch: pytest.MonkeyPatch) -> None:
    for integrated in (True, False):
        double.install(monkeypatch, gpu := SimulatedGpu(), integrated)
        device = PyCudaDevice(1)
        assert (device.unified, device.multiprocessors, device.memory_bytes) == (
            integrated,
            MULTIPROCESSORS,
            MEMORY_BYTES,
        )
        gpu.end()


def test_an_import_gives_our_stream_to_the_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    double.install(monkeypatch, gpu := SimulatedGpu(), integrated=False)
    device = PyCudaDevice()
    stream, array = device.create_stream("a"), Array(device.allocate((2,), "int32"))
    device.import_array(array, stream)
    assert array.consumers == [stream.handle]
    assert stream.close()
    gpu.end()
