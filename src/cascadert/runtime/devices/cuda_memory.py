"""Memory of a CUDA device: buffers, and the ledger of what is allocated."""

from __future__ import annotations

import ctypes
import itertools
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from cascadert.device import NUMPY_TYPES, HostArray
from cascadert.errors import ExecutionError
from cascadert.graph import DType
from cascadert.runtime.devices.cuda_driver import Allocation, CudaDriver

_B = TypeVar("_B", bound="CudaBuffer")


@dataclass(frozen=True, eq=False)
class CudaBuffer:
    """Device or pinned memory. `owner` frees it with the last reference.

    Work queued on a stream by anything but `Device.copy` does not keep it alive: whoever queues that does.
    """

    address: int
    shape: tuple[int, ...]
    dtype: DType
    owner: object = field(repr=False)
    host: HostArray | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Size."""
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.dtype]).itemsize

    def prefix(self: _B, count: int) -> _B:
        """Return the first `count` entries of axis 0: the same memory."""
        if not 0 <= count <= self.shape[0]:
            raise ValueError(f"the first {count} entries of {list(self.shape)}")
        return replace(self, shape=(count, *self.shape[1:]), host=None if self.host is None else self.host[:count])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The buffer for CuPy, PyTorch, Numba and PyCUDA; whoever reads it waits for the work that writes it."""
        typestr = np.dtype(NUMPY_TYPES[self.dtype]).str
        return {"shape": self.shape, "typestr": typestr, "data": (self.address, False), "version": 3, "stream": None}


class Memory:
    """One allocation, given back with the last reference to this object."""

    __slots__ = ("__weakref__", "address", "host_address")

    def __init__(self, allocation: Allocation) -> None:
        self.address, self.host_address = allocation.address, allocation.host_address

    def as_array(self, shape: tuple[int, ...], dtype: DType) -> HostArray | None:
        """Return the memory as an array that keeps it alive, where the host can touch it."""
        if self.host_address is None:
            return None
        kind = np.dtype(NUMPY_TYPES[dtype])
        raw = (ctypes.c_uint8 * (math.prod(shape) * kind.itemsize)).from_address(self.host_address)
        raw.memory = self  # type: ignore[attr-defined]  # every view of the array holds `raw`
        return np.ctypeslib.as_array(raw).view(kind).reshape(shape)


class Ledger:
    """What is allocated on a device.

    Freeing memory can wait for all work on the device. So while a stream hangs, nothing is freed: it is put off until
    `free_put_off`. What CUDA refuses to free stays counted: a lost context gives nothing back. No locks: the garbage
    collector may call from anywhere.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self.hanging: set[object] = set()
        self._driver = driver
        self._live: dict[int, int] = {}
        self._put_off: list[tuple[int, Allocation]] = []
        self._keys = itertools.count()

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated and not freed."""
        return sum(self._live.copy().values())

    def allocate(self, make: Callable[[int], Allocation], nbytes: int) -> Memory:
        """Allocate memory, at least one byte, through a call of the driver.

        Raises:
            ExecutionError: CUDA's own words, for one that memory is short.
        """
        try:
            with self._driver.current():
                allocation = make(max(nbytes, 1))
        except Exception as error:
            remedy = "use fewer slots or smaller frames, or end what else is on the device"
            raise ExecutionError(f"{nbytes} bytes on {self._driver.name}", f"{error}", remedy) from error
        memory, key = Memory(allocation), next(self._keys)
        self._live[key] = nbytes
        weakref.finalize(memory, self._free, key, allocation).atexit = False  # the driver may be gone by then
        return memory

    def free_put_off(self) -> None:
        """Free what was put off, if no stream hangs any more."""
        while self._put_off and not self.hanging:
            self._free(*self._put_off.pop())

    def _free(self, key: int, allocation: Allocation) -> None:
        if self.hanging:
            self._put_off.append((key, allocation))
            return
        with suppress(Exception), self._driver.current():  # nobody is there to be told: the events of its work are
            allocation.free()
            self._live.pop(key)
