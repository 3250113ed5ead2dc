"""The host under the contract of all devices, and what only it does."""

import os
import time

import numpy as np
import pytest
from device_contract import LONG_S, DeviceContract, Kit

from cascadert.device import Buffer, HostStream, runs_host_code
from cascadert.errors import InvalidRequest
from cascadert.runtime.devices.host import HostDevice


def hold(stream: HostStream, flag: Buffer) -> None:
    def spin() -> None:
        while not flag.host[0]:
            time.sleep(2e-4)

    stream.submit(spin)


def fail(stream: HostStream) -> None:
    def refuse() -> None:
        raise RuntimeError("refused")

    stream.submit(refuse)


class OfTheGpu:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **options: object) -> object:
        raise BufferError("not on the host")


FOREIGN = (OfTheGpu(), np.zeros((4, 4), np.float32)[:, ::2], np.zeros(3, np.float64))


class TestContract(DeviceContract):
    @pytest.fixture(params=[True, False], ids=["unified", "separate"])
    def kit(self, request: pytest.FixtureRequest) -> Kit:
        device = HostDevice(unified=request.param)
        return Kit(device, hold, fail, lambda buffer: buffer.array, FOREIGN)


def test_a_stream_runs_host_code_on_the_cores_it_was_given() -> None:
    core = min(os.sched_getaffinity(0))
    stream, seen = HostDevice().create_stream("pinned to a core", cpus=frozenset({core})), []
    assert runs_host_code(stream)
    stream.submit(lambda: seen.append(os.sched_getaffinity(0)))
    assert stream.close(LONG_S)
    assert seen == [{core}]
    with pytest.raises(InvalidRequest, match="not all usable"):
        HostDevice().create_stream("nowhere", cpus=frozenset({10**6}))
