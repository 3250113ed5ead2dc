"""What the contract suite needs beside a CUDA device: on the simulated GPU, and on a real one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from device_contract import Kit
from gpu_simulation import SimulatedGpu

from cascadert.device import Buffer
from cascadert.runtime.devices.cuda_device import CudaDevice
from cascadert.runtime.devices.cuda_memory import CudaBuffer
from cascadert.runtime.devices.cuda_probe import why_no_gpu
from cascadert.runtime.devices.cuda_stream import CudaStream

needs_gpu = pytest.mark.skipif((REASON := why_no_gpu()) is not None, reason=f"no GPU: {REASON}")

# One thread that reads a word of pinned memory until it is not 0. The driver compiles it for the GPU at hand.
HOLD = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry hold(.param .u64 flag)
{
    .reg .pred %p;
    .reg .b32 %v;
    .reg .b64 %a;
    ld.param.u64 %a, [flag];
    cvta.to.global.u64 %a, %a;
WAIT:
    ld.volatile.global.u32 %v, [%a];
    setp.eq.u32 %p, %v, 0;
    @%p bra WAIT;
    ret;
}
"""


class Array:
    """Somebody else's array on the GPU, whose writes are queued on a stream of theirs."""

    def __init__(self, buffer: CudaBuffer, changes: dict[str, Any] | None = None, device: Any = (2, 0)) -> None:
        self._buffer, self._device = buffer, device
        self._found = {**buffer.__cuda_array_interface__, "strides": None, **(changes or {})}
        self.consumers: list[int] = []
        self.before_consumer: Callable[[int], None] = self.consumers.append

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: int, max_version: Any = None) -> dict[str, Any]:
        """Return what the double takes for a capsule."""
        self.before_consumer(stream)
        kind = np.dtype(self._found["typestr"])
        steps = self._found["strides"]
        strides = None if steps is None else tuple(step // kind.itemsize for step in steps)
        return {"address": self._found["data"][0], "shape": self._found["shape"], "strides": strides, "dtype": kind}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._found


def fail(stream: CudaStream) -> None:
    """Let the driver refuse a call. A real one would take its context with it, so the call is ours."""

    def refuse() -> None:
        raise RuntimeError("refused")

    stream._queue(refuse)


def foreign_to(device: CudaDevice) -> tuple[Any, ...]:
    """Arrays that the device must refuse."""
    buffer = device.allocate((4, 4), "float32")
    return (
        np.zeros(3, np.float32),
        Array(buffer, device=(2, 1)),
        Array(buffer, device=(3, 0)),
        Array(buffer, {"shape": (4, 2), "strides": (16, 8)}),
        Array(buffer, {"shape": (2,), "typestr": "<c16"}),
    )


def simulated_kit(gpu: SimulatedGpu, device: CudaDevice) -> Iterator[Kit]:
    """A kit on a simulated GPU; ends it and checks that nothing was misused and everything was given back."""

    def hold(stream: CudaStream, flag: Buffer) -> None:
        gpu.depth += 1
        gpu.streams[stream.handle].spin(flag.address)
        gpu.depth -= 1

    kit = Kit(device, hold, fail, Array, foreign_to(device))
    yield kit
    kit.foreign = ()
    kit.flags.clear()
    gc.collect()
    gpu.settle()
    live_bytes, live_streams = gpu.live_bytes, sum(not stream.closed for stream in gpu.streams.values())
    gpu.end()
    assert live_bytes == device.allocated_bytes == 0
    assert live_streams <= 1  # the one on which memory is allocated
