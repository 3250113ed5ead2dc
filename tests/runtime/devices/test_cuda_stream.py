"""What happens to streams and events when CUDA fails, and when work hangs. On the simulated GPU."""

import gc
import math
import threading
from collections.abc import Iterator

import cuda_core_double
import numpy as np
import pytest
from cuda_kits import Array, simulated_kit
from device_contract import LONG_S, SHORT_S, Kit, ends, ints, waits
from gpu_simulation import SimulatedGpu

from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.runtime.devices.cuda_core import CudaCoreDevice
from cascadert.runtime.devices.host import HostDevice


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    cuda_core_double.install(monkeypatch, gpu := SimulatedGpu(), integrated=False)
    return gpu


@pytest.fixture
def kit(gpu: SimulatedGpu) -> Iterator[Kit]:
    yield from simulated_kit(gpu, CudaCoreDevice())


class TestLostContext:
    """After an illegal address every call fails, in every stream."""

    @pytest.fixture
    def device(self, gpu: SimulatedGpu) -> Iterator[CudaCoreDevice]:
        yield CudaCoreDevice()
        gpu.end()

    def test_every_piece_fails_with_the_words_of_cuda(self, gpu: SimulatedGpu, device: CudaCoreDevice) -> None:
        a, b = device.create_stream("a"), device.create_stream("b")
        source, target = device.allocate_pinned((1,), "int32"), device.allocate((1,), "int32")
        begin = a.begin()
        assert ends(begin)
        pending = a.record()
        gpu.lose()
        for stream in (a, b, a):
            start = stream.begin([begin])
            device.copy(source, target, stream)
            stream.wait(pending)
            end = stream.record()
            assert start.is_done and end.synchronize() and end.synchronize(0)
            assert isinstance(end.error, ExecutionError)
            assert "work on Simulated GPU: CUDA_ERROR_ILLEGAL_ADDRESS" in str(end.error)
            assert math.isnan(end.milliseconds_since(begin))
        assert begin.error is None  # it was seen to be done before
        assert ends(pending) and isinstance(pending.error, ExecutionError)
        assert a.close(LONG_S) and b.close(LONG_S)

    def test_what_waits_is_told(self, gpu: SimulatedGpu, device: CudaCoreDevice) -> None:
        stream, heard, told = device.create_stream("a"), [], threading.Event()
        flag = device.allocate_pinned((1,), "int32")
        flag.host[0] = 0
        gpu.depth += 1
        gpu.streams[stream.handle].spin(flag.address)
        gpu.depth -= 1
        end = stream.record()
        stream.notify(heard.append)
        stream.notify(lambda _: told.set())
        assert waits(end)
        gpu.lose()
        assert told.wait(LONG_S) and end.synchronize()
        assert ["CUDA_ERROR_ILLEGAL_ADDRESS" in str(error) for error in (*heard, end.error)] == [True, True]
        assert stream.close(LONG_S)

    def test_nothing_can_be_made_any_more(self, gpu: SimulatedGpu, device: CudaCoreDevice) -> None:
        stream = device.create_stream("a")
        array = Array(device.allocate((1,), "int32"))
        gpu.lose()
        for make in (lambda: device.create_stream("b"), lambda: device.import_array(array, stream)):
            with pytest.raises(ExecutionError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
                make()
        with pytest.raises(ExecutionError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            device.allocate((1,), "int32")


def test_no_memory_is_an_error_of_its_own(kit: Kit) -> None:
    before = kit.device.allocated_bytes
    for make in (kit.device.allocate, kit.device.allocate_pinned):
        with pytest.raises(ExecutionError, match=r"bytes on Simulated GPU: CUDA_ERROR_OUT_OF_MEMORY"):
            make((1 << 40,), "uint8")
    assert kit.device.allocated_bytes == before


def test_while_a_stream_hangs_nothing_is_freed(kit: Kit, gpu: SimulatedGpu) -> None:
    stream, buffer = kit.device.create_stream("hangs"), kit.device.allocate_pinned((1000,), "uint8")
    before = kit.device.allocated_bytes
    with kit.held(stream):
        assert not stream.close(SHORT_S)
        live = gpu.live_bytes
        del buffer
        gc.collect()
        kit.device.close()
        assert gpu.live_bytes == live
    assert stream.close(LONG_S)
    kit.device.close()
    gpu.settle()
    assert gpu.live_bytes == live - 1000
    assert kit.device.allocated_bytes < before


def test_a_stream_is_closed_once(kit: Kit) -> None:
    stream = kit.device.create_stream("a")
    assert stream.close() and stream.close(0)


def test_a_thread_that_never_saw_cuda_can_use_the_device(kit: Kit) -> None:
    seen = []

    def use() -> None:
        stream = kit.device.create_stream("mine")
        seen.append(kit.values(kit.on_device(ints(6), stream), stream).item())
        stream.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(LONG_S)
    assert seen == [6]


def test_an_import_waits_for_the_producer(kit: Kit, gpu: SimulatedGpu) -> None:
    """As DLPack has it: the producer is given our stream, and lets it wait for its own."""
    theirs, ours = kit.device.create_stream("theirs"), kit.device.create_stream("ours")
    array = Array(buffer := kit.on_device(ints(1), theirs))
    source = kit.pinned(ints(2))

    def order(handle: int) -> None:
        assert handle == ours.handle
        ours.wait(theirs.record())

    array.before_consumer = order
    with kit.held(theirs):
        kit.device.copy(source, buffer, theirs)
        imported = kit.device.import_array(array, ours)
        target = kit.device.allocate_pinned((1,), "int32")
        kit.device.copy(imported, target, ours)
        assert waits(ours)
    assert ends(ours) and target.host.item() == 2
    assert theirs.close() and ours.close()


def test_strides_of_an_import_are_in_entries(kit: Kit) -> None:
    """DLPack counts entries, not bytes."""
    stream, buffer = kit.device.create_stream("a"), kit.device.allocate((2, 3), "float32")
    imported = kit.device.import_array(Array(buffer, {"strides": (12, 4)}), stream)
    assert (imported.address, imported.shape) == (buffer.address, (2, 3))
    with pytest.raises(InvalidRequest, match="is float32, not contiguous"):
        kit.device.import_array(Array(buffer, {"shape": (2, 2), "strides": (12, 4)}), stream)
    assert stream.close()


def test_what_does_not_fit_is_refused_when_it_is_queued(kit: Kit) -> None:
    stream, worker = kit.device.create_stream("a"), HostDevice().create_stream("host")
    mine, other = kit.device.allocate((2,), "int32"), HostDevice().allocate((2,), "int32")
    for target in (kit.device.allocate((2, 1), "int32"), kit.device.allocate((2,), "float32")):
        with pytest.raises(InvalidRequest, match=r"a copy of int32 \[2\]: the target is"):
            kit.device.copy(mine, target, stream)
    for wrong in (
        lambda: kit.device.copy(mine, other, stream),
        lambda: kit.device.copy(mine, mine, worker),
        lambda: stream.wait(worker.record()),
        lambda: kit.device.import_array(Array(mine), worker),
    ):
        with pytest.raises(TypeError):
            wrong()
    for count in (-1, 3):
        with pytest.raises(ValueError, match="the first"):
            mine.prefix(count)
    assert stream.close() and worker.close()


def test_the_simulation_notices_misuse(kit: Kit, gpu: SimulatedGpu) -> None:
    """Or the contract would prove nothing."""
    mine = kit.device.create_stream("a")
    stream = gpu.streams[mine.handle]
    gpu.depth = 1
    block = gpu.allocate(8, "device")
    freed = gpu.allocate(8, "device")
    gpu.free(freed)
    for address in (freed.address, block.address + 4, np.zeros(8).ctypes.data):
        gpu.lost = None
        stream.copy(address, block.address, 8)
        gpu.settle()
    gpu.lost = None
    gpu.depth = 0
    with pytest.raises(BaseException, match="no context is current"):
        stream.record(timing=True)
    assert [what.split(",")[0].split(" at ")[0] for what in gpu.misuses] == [
        "memory that was freed",
        "8 bytes",
        "8 bytes",
        "no context is current in MainThread",
    ]
    gpu.misuses.clear()
    gpu.free(block)
    assert mine.close()
